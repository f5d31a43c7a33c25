//! SER: the rules of serialization.

use report::audit::{Rule, Severity};

pub(super) const DANGEROUS: Rule = Rule {
    id: "SER-001",
    severity: Severity::Critical,
    cwe: 502,
    title: "A pickle that runs code when it is loaded",
    help: "The pickle imports or calls something that is not needed to rebuild data: commands, evaluation of code, files, connections, or a name that nobody vouches for. Loading it runs that with the rights of the user. The opcodes were listed, never run.",
    remediation: "Do not load the file, also not to look into it. Report the repository, and ask the author for safetensors.",
    gap: false,
};
pub(super) const DISGUISED: Rule = Rule {
    id: "SER-002",
    severity: Severity::Critical,
    cwe: 434,
    title: "A pickle or archive under the name of something else",
    help: "The content is a pickle, or an archive with one, but the name says otherwise: safetensors, text, a picture. Loaders that look at the content run it.",
    remediation: "Do not load the file; ask the author for real safetensors.",
    gap: false,
};
pub(super) const DAMAGED: Rule = Rule {
    id: "SER-003",
    severity: Severity::High,
    cwe: 20,
    title: "A pickle that is damaged behind its imports",
    help: "The opcodes cannot be read to their end. A loader runs everything before the damage, which is why such files are made: scanners that give up on the error report nothing.",
    remediation: "Do not load the file; download it again if you trust its author.",
    gap: false,
};
pub(super) const BOMB: Rule = Rule {
    id: "SER-004",
    severity: Severity::High,
    cwe: 400,
    title: "A pickle that grows without bound",
    help: "Containers that hold the same earlier container several times, over and over: a small file that fills the memory of whoever loads it.",
    remediation: "Do not load the file.",
    gap: false,
};
pub(super) const LEFTOVER: Rule = Rule {
    id: "SER-005",
    severity: Severity::Low,
    cwe: 502,
    title: "A pickle that rebuilds data only",
    help: "The pickle imports nothing but tensors, arrays, containers and settings of trainers, as training leaves them behind. Nothing of it is needed to use the adapter.",
    remediation: "Leave it out of what you deploy; if you need it, load it with `weights_only=True`.",
    gap: false,
};

pub(super) const SHADOW: Rule = Rule {
    id: "SER-006",
    severity: Severity::Medium,
    cwe: 436,
    title: "A second set of weights as a pickle",
    help: "Weights as a pickle lie beside the safetensors. Loaders choose differently, so what was checked and tested need not be what runs; and a pickle can run code.",
    remediation: "Remove the pickle, and load with `use_safetensors=True`.",
    gap: false,
};
pub(super) const ONLY_PICKLE: Rule = Rule {
    id: "SER-007",
    severity: Severity::Medium,
    cwe: 502,
    title: "Weights as a pickle only",
    help: "The adapter has no safetensors: to load it is to run its pickle. Its numbers were not examined.",
    remediation: "Ask the author for safetensors, or convert it in an isolated place with `weights_only=True`.",
    gap: true,
};
pub(super) const OBJECT_ARRAY: Rule = Rule {
    id: "SER-008",
    severity: Severity::High,
    cwe: 502,
    title: "A NumPy array of Python objects",
    help: "The elements are pickled objects: whoever loads the array with `allow_pickle=True` runs the pickle.",
    remediation: "Do not load it; no adapter needs an array of objects.",
    gap: false,
};
pub(super) const PROGRAM: Rule = Rule {
    id: "SER-010",
    severity: Severity::High,
    cwe: 502,
    title: "A model format that carries programs",
    help: "TorchScript archives, and Keras models with Lambda layers, hold code that runs when the model is loaded or called.",
    remediation: "Do not load it; an adapter is tensors and a config.",
    gap: false,
};
pub(super) const HIDDEN: Rule = Rule {
    id: "SER-011",
    severity: Severity::Critical,
    cwe: 506,
    title: "A pickle hidden in another file",
    help: "Inside of a file of another format, or as base64 in a text, lies a pickle that calls something dangerous. Something else in the repository, or a loader that seeks, is meant to load it.",
    remediation: "Do not use anything of the repository; report it.",
    gap: false,
};

pub(super) const DECOYS: Rule = Rule {
    id: "SER-012",
    severity: Severity::Medium,
    cwe: 400,
    title: "More that looks like pickles than is followed",
    help: "The file has so many beginnings of pickles, or such long ones, that not all were followed. Ordinary data does not; decoys wear scanners out.",
    remediation: "Remove the file, or find out what it is.",
    gap: true,
};

pub(super) const ALL: &[Rule] = &[
    DANGEROUS,
    DISGUISED,
    DAMAGED,
    BOMB,
    LEFTOVER,
    SHADOW,
    ONLY_PICKLE,
    OBJECT_ARRAY,
    PROGRAM,
    HIDDEN,
    DECOYS,
];
