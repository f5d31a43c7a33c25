//! CFG: what configuration files make loaders do.

mod adapter;
mod base;
mod generation;
mod known;
mod regex;
mod remote_code;
mod yaml;

pub(super) use adapter::AdapterConfigs;
pub(super) use base::hub_id;
pub(super) use generation::GenerationConfigs;
pub(super) use regex::backtracking;
pub(super) use remote_code::RemoteCode;
pub(super) use yaml::YamlFiles;
