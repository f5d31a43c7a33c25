//! Every target is this program under another name: the name chooses the kind of file from the table.

#![no_main]

mod targets;

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use targets::{Target, targets};

/// The root of the repository.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../..");

thread_local! {
    static TARGET: OnceCell<Target> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    TARGET.with(|target| {
        let target = target.get_or_init(|| {
            let name = env!("CARGO_BIN_NAME");
            targets().into_iter().find(|target| target.name == name).expect("a target of the table")
        });
        target.read(bytes.to_vec());
    });
});
