//! PROV and SEC: where an adapter comes from, what its texts want of their reader, and what they give away.

mod base;
mod card;
mod front_matter;
mod history;
pub(super) mod hub;
mod objects;
mod reader;
mod secrets;
mod sha1;
mod signature;

pub(super) use base::BaseNames;
pub(super) use card::Cards;
pub(super) use history::Histories;
pub(super) use hub::Hub;
pub(super) use reader::Texts;
pub(super) use secrets::Secrets;
pub use signature::Signature;
pub(super) use signature::Signatures;
