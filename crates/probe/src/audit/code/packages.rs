//! CODE-016: what installing the repository's requirements would fetch and run.

use report::audit::{Finding, Rule, Severity};

use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::names;

const SOURCE: Rule = Rule {
    id: "CODE-016",
    severity: Severity::High,
    cwe: 829,
    title: "Requirements from somewhere else than the package index",
    help: "Another index, an address, or a repository without a commit: installing runs the code of whoever controls it, at whatever state it is then. Packages from well-known repositories are reported as low.",
    remediation: "Install released versions from the index, with hashes.",
    gap: false,
};
const LOOK_ALIKE: Rule = Rule {
    id: "CODE-017",
    severity: Severity::High,
    cwe: 1007,
    title: "A requirement named like a well-known package",
    help: "The name is one letter away from a package that everybody installs. Such names are registered to be installed by mistake.",
    remediation: "Check the name; install the package that was meant.",
    gap: false,
};

/// Packages of this trade, which look-alikes aim at.
const PACKAGES: &[&str] = &[
    "accelerate",
    "aiohttp",
    "auto-gptq",
    "bitsandbytes",
    "boto3",
    "datasets",
    "deepspeed",
    "diffusers",
    "einops",
    "evaluate",
    "fastapi",
    "flash-attn",
    "gradio",
    "huggingface-hub",
    "ipython",
    "jinja2",
    "jupyter",
    "langchain",
    "litellm",
    "llama-cpp-python",
    "matplotlib",
    "numpy",
    "openai",
    "optimum",
    "pandas",
    "peft",
    "pillow",
    "protobuf",
    "pydantic",
    "pytorch-lightning",
    "pyyaml",
    "requests",
    "safetensors",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "sentencepiece",
    "tensorboard",
    "tensorflow",
    "tiktoken",
    "tokenizers",
    "torch",
    "torchaudio",
    "torchvision",
    "tqdm",
    "transformers",
    "triton",
    "unsloth",
    "urllib3",
    "vllm",
    "wandb",
    "xformers",
];
/// Names near these that are packages of their own.
const OWN: &[&str] = &[
    "torch",
    "tqdm",
    "trl",
    "peft",
    "scipy",
    "numpy",
    "einx",
    "pandas",
    "gradio",
    "optimum",
    "tensorflow",
    "tensorboardx",
    "jupyterlab",
    "pydantic-core",
    "request",
    "triton",
    "litellm",
    "openai",
    "evaluation",
];
/// Owners on public forges whose packages are installed from there every day.
const OWNERS: &[&str] = &[
    "huggingface",
    "pytorch",
    "unslothai",
    "openai",
    "dao-ailab",
    "timdettmers",
    "bitsandbytes-foundation",
    "facebookresearch",
    "microsoft",
    "nvidia",
    "google",
    "google-research",
    "axolotl-ai-cloud",
    "hiyouga",
    "vllm-project",
    "lvwerra",
    "meta-llama",
    "eleutherai",
    "stanfordnlp",
    "autogptq",
    "casper-hansen",
    "lm-sys",
];
/// Hosts of the usual indexes.
const INDEXES: &[&str] = &[
    "pypi.org",
    "files.pythonhosted.org",
    "download.pytorch.org",
    "pypi.nvidia.com",
    "data.pyg.org",
    "pypi.ngc.nvidia.com",
    "mirrors.aliyun.com",
    "pypi.tuna.tsinghua.edu.cn",
];

/// Requirement lists and project files.
pub(in crate::audit) struct Packages;

impl Check for Packages {
    fn name(&self) -> &'static str {
        "packages"
    }

    fn rules(&self) -> &'static [Rule] {
        &[SOURCE, LOOK_ALIKE]
    }

    fn wants(&self, file: &File) -> bool {
        file.text().is_some() && (is_list(file) || is_project(file) || file.name() == "setup.py")
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(text) = file.text() else { return };
        let list = is_list(file);
        for (index, line) in text.lines().enumerate() {
            let bare = line.split(" #").next().unwrap_or(line).trim().trim_start_matches("- ");
            if bare.is_empty() || bare.starts_with('#') {
                continue;
            }
            if let Some((severity, message)) = source(bare, list) {
                let finding = Finding::new(&SOURCE, &file.path, message).line(index + 1).severity(severity);
                findings.in_file(file, finding);
            } else if list && let Some((name, meant)) = look_alike(bare) {
                let message = format!("`{name}` looks like `{meant}`");
                findings.in_file(file, Finding::new(&LOOK_ALIKE, &file.path, message).line(index + 1));
            }
            if !list && (bare.starts_with("backend-path") || bare.contains("cmdclass")) {
                let message = "installing runs code of this repository";
                let finding =
                    Finding::new(&SOURCE, &file.path, message).line(index + 1).severity(Severity::Medium);
                findings.in_file(file, finding);
            }
        }
        if file.name() == "setup.py" {
            let message = "installing the repository runs this file";
            findings.in_file(file, Finding::new(&SOURCE, &file.path, message).severity(Severity::Low));
        }
    }
}

fn is_list(file: &File) -> bool {
    let name = file.name().to_lowercase();
    let requirements = (name.contains("requirements") || name.starts_with("constraints"))
        && matches!(file.extension().as_str(), "txt" | "in" | "pip");
    requirements
        || matches!(name.as_str(), "environment.yml" | "environment.yaml" | "conda.yml" | "conda.yaml")
}

fn is_project(file: &File) -> bool {
    matches!(file.name(), "pyproject.toml" | "setup.cfg" | "Pipfile" | "poetry.toml" | "uv.toml")
}

/// Where a line takes a package from, if not from the index.
fn source(line: &str, list: bool) -> Option<(Severity, String)> {
    let lower = line.to_lowercase();
    let option = [
        "--index-url",
        "--extra-index-url",
        "--find-links",
        "-i ",
        "-f ",
        "index-url",
        "extra-index-url",
        "find-links",
    ]
    .iter()
    .any(|option| lower.starts_with(option) || (!list && lower.contains(option)));
    if lower.starts_with("--trusted-host") || lower.contains("trusted-host") {
        return Some((
            Severity::High,
            "`--trusted-host` switches the check of a server's identity off".into(),
        ));
    }
    let at = lower.find("://");
    let host = at.map(|at| host_of(&lower[at + 3..]));
    if option {
        let host = host?;
        let known = INDEXES.iter().any(|index| host == *index || host.ends_with(&format!(".{index}")));
        let plain = lower.contains("http://");
        return (!known || plain).then(|| (Severity::High, format!("packages from the index at {host}")));
    }
    let (Some(at), Some(host)) = (at, host) else {
        let local = list
            && (lower.starts_with("./")
                || lower.starts_with("../")
                || lower.starts_with("-e ")
                || lower.ends_with(".whl"));
        return local.then(|| (Severity::Low, "a package out of a folder or file".into()));
    };
    // Of a project file only what looks like a requirement counts: links to a home page do not.
    let requirement = list
        || lower.contains(" @ ")
        || lower.contains("git+")
        || lower.contains(".whl")
        || lower.contains(".tar.gz");
    if !requirement {
        return None;
    }
    let owner = lower[at + 3..].split('/').nth(1).unwrap_or("");
    let forge =
        matches!(host.as_str(), "github.com" | "gitlab.com" | "huggingface.co" | "raw.githubusercontent.com");
    let index = INDEXES.contains(&host.as_str());
    let pinned = is_pinned(&lower) && lower.contains("https://");
    let severity = if index || (forge && (OWNERS.contains(&owner) || pinned)) {
        Severity::Low
    } else if forge {
        Severity::Medium
    } else {
        Severity::High
    };
    Some((severity, format!("a package from {host}")))
}

/// Whether an address ends in a commit or names a digest.
fn is_pinned(line: &str) -> bool {
    let commit = line.rsplit('@').next().map(|rest| rest.split(['#', ';', ' ', '"']).next().unwrap_or(rest));
    line.contains("sha256=")
        || commit.is_some_and(|commit| commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The host of an address, without user and port.
fn host_of(rest: &str) -> String {
    let host = rest.split(['/', '?', '#', '"', '\'', ' ', ',']).next().unwrap_or(rest);
    let host = host.rsplit('@').next().unwrap_or(host);
    host.split(':').next().unwrap_or(host).to_owned()
}

/// A requirement whose name is one letter from a well-known package: it and the package.
fn look_alike(line: &str) -> Option<(String, &'static str)> {
    let end = line.find(|c: char| !c.is_alphanumeric() && !"-_.".contains(c)).unwrap_or(line.len());
    let name = line[..end].to_lowercase().replace(['_', '.'], "-");
    if name.len() < 4 || PACKAGES.contains(&name.as_str()) || OWN.contains(&name.as_str()) {
        return None;
    }
    let meant =
        PACKAGES.iter().find(|package| package.len() >= 5 && names::distance_is_one(&name, package))?;
    Some((name, meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        for (line, severity) in [
            ("--extra-index-url http://198.51.100.7/simple", Some(Severity::High)),
            ("--extra-index-url https://download.pytorch.org/whl/cu121", None),
            ("helper @ https://198.51.100.7/h.tar.gz", Some(Severity::High)),
            ("git+https://github.com/huggingface/transformers.git", Some(Severity::Low)),
            ("git+https://github.com/someone/peft-fork.git", Some(Severity::Medium)),
            ("peft==0.21.2", None),
        ] {
            assert_eq!(source(line, true).map(|(severity, _)| severity), severity, "{line}");
        }
        assert_eq!(source("Homepage = \"https://example.org\"", false), None);
    }

    #[test]
    fn look_alikes_are_found() {
        assert_eq!(look_alike("transfomers==4.0").map(|(_, meant)| meant), Some("transformers"));
        assert_eq!(look_alike("reqeusts").map(|(_, meant)| meant), Some("requests"));
        for name in ["transformers", "trl", "peft>=0.4", "nltk", "rouge-score", "tensorboardx"] {
            assert_eq!(look_alike(name), None, "{name}");
        }
    }
}
