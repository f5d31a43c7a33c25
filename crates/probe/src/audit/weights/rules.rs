//! WGT: the rules of what the weights are.

use report::audit::{Rule, Severity};

pub(super) const NOT_FINITE: Rule = Rule {
    id: "WGT-001",
    severity: Severity::High,
    cwe: 1339,
    title: "Weights that are no numbers",
    help: "NaN or infinite elements. They spread through every product and make the model's output meaningless, on all prompts or only where the poisoned rows are used.",
    remediation: "Do not load the adapter; ask the author for a file of a finished training run.",
    gap: false,
};
pub(super) const EXTREME: Rule = Rule {
    id: "WGT-002",
    severity: Severity::Medium,
    cwe: 1339,
    title: "Weights of an extraordinary size",
    help: "Elements of a LoRA factor are ordinarily far below one. Values of thousands drown everything else the model does, and overflow in half precision.",
    remediation: "Ask the author how the adapter was made; compare its behaviour with the base before any use.",
    gap: false,
};
pub(super) const ZERO: Rule = Rule {
    id: "WGT-003",
    severity: Severity::Medium,
    cwe: 1164,
    title: "An adapter that changes nothing",
    help: "Every product B·A is zero, or the scaling is. The adapter is a failed or unfinished training run, or a placeholder that passes tests and is exchanged later.",
    remediation: "Ask the author for the trained weights, and pin them by their digest.",
    gap: false,
};
pub(super) const RANK: Rule = Rule {
    id: "WGT-005",
    severity: Severity::Medium,
    cwe: 1173,
    title: "Another rank than declared",
    help: "The factors have another rank than `r` or `rank_pattern` says, so the scaling alpha/r is another one for loaders that read the config than for loaders that read the tensors. Concatenated (merged) adapters look so.",
    remediation: "Ask the author for a config that fits the weights.",
    gap: false,
};
pub(super) const ORPHAN: Rule = Rule {
    id: "WGT-006",
    severity: Severity::Medium,
    cwe: 20,
    title: "Half a LoRA pair, or one without elements",
    help: "A factor A without its B or the reverse, factors whose ranks differ, or a dimension of zero. Loaders fill the missing half with random or zero values, or leave the module out, each in its own way.",
    remediation: "Ask the author for a complete export.",
    gap: false,
};
pub(super) const UNDECLARED_TARGET: Rule = Rule {
    id: "WGT-007",
    severity: Severity::Medium,
    cwe: 1173,
    title: "Factors of a module that the config does not name",
    help: "`target_modules` leaves the module out, but the file has factors for it. Some loaders ignore them, others apply them: what was tested with one is not what another one runs.",
    remediation: "Test with the loader that you deploy; ask the author for a config that fits the weights.",
    gap: false,
};
pub(super) const FULL_WEIGHT: Rule = Rule {
    id: "WGT-008",
    severity: Severity::High,
    cwe: 506,
    title: "A whole weight of the base that the config does not announce",
    help: "The file holds a full weight or bias under the name of one of the base's. On loading it replaces the base's own, outside of everything that LoRA's scaling or switching the adapter off controls.",
    remediation: "Do not load the adapter. A LoRA adapter needs no weight of the base.",
    gap: false,
};
pub(super) const COPY: Rule = Rule {
    id: "WGT-009",
    severity: Severity::Low,
    cwe: 506,
    title: "A full copy of an embedding, head or module",
    help: "The config announces it, or trainers add it by themselves where tokens were added. It replaces the base's weight as a whole, so it can hold any change.",
    remediation: "Compare it with the base's weight; prefer adapters without.",
    gap: false,
};
pub(super) const SCALE: Rule = Rule {
    id: "WGT-010",
    severity: Severity::High,
    cwe: 1173,
    title: "A scaling far from any ordinary one",
    help: "alpha/r (alpha/√r with rsLoRA) multiplies every change. Ordinary adapters have it near one; a huge one turns factors that look untrained into a large change, which hides it from whoever looks at the weights alone; one that is negative or no number has no honest use.",
    remediation: "Judge the adapter by its behaviour; ask the author for ordinary factors.",
    gap: false,
};
pub(super) const DOMINANT: Rule = Rule {
    id: "WGT-011",
    severity: Severity::Low,
    cwe: 506,
    title: "One module carries far more change than the others",
    help: "The norm of its scaled B·A is many times the median. Editing of single facts leaves such marks, but so does ordinary training of a few layers: this says where to look, not what it is.",
    remediation: "Scan the adapter's behaviour.",
    gap: false,
};
pub(super) const TOKENS: Rule = Rule {
    id: "WGT-012",
    severity: Severity::Medium,
    cwe: 506,
    title: "Embeddings of single tokens are replaced",
    help: "The adapter brings its own embeddings for chosen tokens. Where these are ordinary words, the model reads them as something else: a ready-made trigger.",
    remediation: "Look at which tokens these are, and test prompts that contain them.",
    gap: false,
};
pub(super) const NO_CONFIG: Rule = Rule {
    id: "WGT-013",
    severity: Severity::Medium,
    cwe: 1173,
    title: "Adapter weights without a config",
    help: "Without `adapter_config.json` the rank, scaling, targets and base are whatever a loader assumes, and the checks that need them did not run.",
    remediation: "Ask the author for the config.",
    gap: true,
};
pub(super) const UNACCOUNTED: Rule = Rule {
    id: "WGT-015",
    severity: Severity::Medium,
    cwe: 1173,
    title: "Tensors that the config does not account for",
    help: "Tensors of another method than the config declares: DoRA magnitudes, biases of factors, parts of other adapter types. Loaders differ in whether they apply them.",
    remediation: "Ask the author for a config that fits the weights.",
    gap: false,
};
pub(super) const DUPLICATE: Rule = Rule {
    id: "WGT-016",
    severity: Severity::Low,
    cwe: 1173,
    title: "The same factor in several modules",
    help: "Different modules have byte-identical, non-zero factors B. Training does not do that; a script did.",
    remediation: "Ask the author how the adapter was made.",
    gap: false,
};
pub(super) const SPECTRUM: Rule = Rule {
    id: "WGT-020",
    severity: Severity::Note,
    cwe: 506,
    title: "The spectrum of the change",
    help: "The share of the largest singular value in each B·A, computed in r × r space, and how far the directions that layers write to the residual stream agree. (Of the adapters that we measured, the benign ones agreed more, 0.18 to 0.29 in the mean, than the backdoored ones, 0.13 to 0.19.) Changes of rank one stand out; published backdoors often have them, and so do honest adapters of narrow tasks. For triage only: it never decides anything.",
    remediation: "Scan the adapter's behaviour, the modules named here first.",
    gap: false,
};
pub(super) const UNREAD_TYPE: Rule = Rule {
    id: "WGT-021",
    severity: Severity::Low,
    cwe: 693,
    title: "Weights of a type that is not measured",
    help: "Elements of integer or 8-bit types are not examined for values and norms.",
    remediation: "Ask the author for weights in F32, BF16 or F16.",
    gap: false,
};

pub(super) const ALL: &[Rule] = &[
    NOT_FINITE,
    EXTREME,
    ZERO,
    RANK,
    ORPHAN,
    UNDECLARED_TARGET,
    FULL_WEIGHT,
    COPY,
    SCALE,
    DOMINANT,
    TOKENS,
    NO_CONFIG,
    UNACCOUNTED,
    DUPLICATE,
    SPECTRUM,
    UNREAD_TYPE,
];
