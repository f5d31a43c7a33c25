//! A signature of the repository in the OpenSSF model-signing format (version 1.0), against a key that the user names.
//!
//! The format is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists every file with its SHA-256.
//! The key is never taken from the bundle: whoever can change the files can sign them again with a key of his own.
//! Certificates and transparency logs are not verified; such a bundle is reported as not checked.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inference::weights::digest::sha256_bytes;
use p256::ecdsa::signature::Verifier as _;
use p256::pkcs8::DecodePublicKey as _;
use report::audit::{Finding, Rule, Severity};
use serde::Deserialize;

use crate::audit::Check;
use crate::audit::encoded;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::repository::Repository;

const FORGED: Rule = Rule {
    id: "PROV-022",
    severity: Severity::Critical,
    cwe: 347,
    title: "The signature was not made with the key that was named",
    help: "The envelope's signature does not verify with the public key given by `--key`, or what it signs contradicts itself. Somebody else signed the files, or the signature was changed.",
    remediation: "Get the key from its owner by another way than the repository, and the files from where the owner published them.",
    gap: false,
};
const CHANGED: Rule = Rule {
    id: "PROV-023",
    severity: Severity::Critical,
    cwe: 354,
    title: "A file differs from what was signed, or is absent",
    help: "The signed list names this file with another SHA-256, or names a file that is not there. It was changed after it was signed.",
    remediation: "Get the files again from where the signer published them.",
    gap: false,
};
const UNSIGNED: Rule = Rule {
    id: "PROV-024",
    severity: Severity::High,
    cwe: 353,
    title: "A file that the signature does not cover",
    help: "The file is not in the signed list, nor among the paths that the signer left out. It was put there later, and loaders may read it.",
    remediation: "Remove the file, or ask the signer for a signature that covers it.",
    gap: false,
};
const SIGNED: Rule = Rule {
    id: "PROV-025",
    severity: Severity::Note,
    cwe: 347,
    title: "The files are what the owner of the named key signed",
    help: "Signature and digests agree with the public key given by `--key`. It says who published the files, not what they do.",
    remediation: "Nothing. Make sure that the key came from its owner.",
    gap: false,
};
const UNREADABLE: Rule = Rule {
    id: "PROV-026",
    severity: Severity::Medium,
    cwe: 347,
    title: "A signature that could not be checked",
    help: "The bundle or the key has a form that is not verified here: a certificate or a transparency log instead of a key, a curve other than P-256 and P-384, files signed in shards, or no bundle at all.",
    remediation: "Verify it with the `model_signing` program of the OpenSSF, and pin the files by `triggerfish pin`.",
    gap: true,
};

/// A bundle of 100,000 files stays below this.
const BUNDLE_BYTES: u64 = 32 << 20;
const KEY_BYTES: u64 = 64 << 10;
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";

/// What the user named to verify a repository by.
#[derive(Clone, Copy, Debug)]
pub struct Signature<'a> {
    /// The bundle (`model.sig`).
    pub bundle: &'a Path,
    /// The public key, PEM.
    pub key: &'a Path,
}

/// Signatures in the OpenSSF model-signing format.
pub(in crate::audit) struct Signatures;

impl Check for Signatures {
    fn name(&self) -> &'static str {
        "signatures"
    }

    fn rules(&self) -> &'static [Rule] {
        &[FORGED, CHANGED, UNSIGNED, SIGNED, UNREADABLE]
    }

    fn wants(&self, _: &File) -> bool {
        false
    }

    fn repository(&self, repository: &Repository, findings: &mut Findings) {
        let Some(signature) = repository.signature else { return };
        let place = signature.bundle.display().to_string();
        let add = |findings: &mut Findings, (rule, message): (&Rule, String)| {
            findings.add(Finding::new(rule, &place, message));
        };
        let statement = match statement(signature) {
            Ok(statement) => statement,
            Err(problem) => return add(findings, problem),
        };
        let signed = match statement.files() {
            Ok(signed) => signed,
            Err(problem) => return add(findings, problem),
        };
        let own = [signature.bundle, signature.key].map(|path| path.canonicalize().ok());
        let mut agrees = true;
        for (name, digest) in &signed {
            let found = repository.file(name).filter(|file| !file.is_member());
            let message = match found {
                Some(file) if file.sha256 == *digest => continue,
                Some(file) => format!("signed with {digest}, found {}", file.sha256),
                None => "it was signed and is not there".to_owned(),
            };
            agrees = false;
            findings.add(Finding::new(&CHANGED, name, message));
        }
        for file in repository.files.iter().filter(|file| !file.is_member()) {
            let named_by_user = own.contains(&repository.root.join(&file.path).canonicalize().ok());
            if !signed.contains_key(&file.path) && !statement.leaves_out(&file.path) && !named_by_user {
                agrees = false;
                findings.in_file(file, Finding::new(&UNSIGNED, &file.path, "it is not in the signed list"));
            }
        }
        if agrees {
            add(findings, (&SIGNED, format!("{} files, as signed", signed.len())));
        }
    }
}

/// A rule and what to say.
type Problem = (&'static Rule, String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    verification_material: serde_json::Map<String, serde_json::Value>,
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Deserialize)]
struct Signed {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    subject: Vec<Subject>,
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Serialization {
    method: String,
    #[serde(default)]
    ignore_paths: Vec<String>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

/// What was signed, once the signature has been verified.
fn statement(signature: Signature<'_>) -> Result<Statement, Problem> {
    let unreadable = |message: String| (&UNREADABLE, message);
    let bundle = read(signature.bundle, BUNDLE_BYTES).map_err(unreadable)?;
    let bundle: Bundle = serde_json::from_slice(&bundle)
        .map_err(|error| unreadable(format!("expected a Sigstore bundle with a DSSE envelope: {error}")))?;
    if !bundle.verification_material.contains_key("publicKey") {
        let kinds: Vec<&String> = bundle.verification_material.keys().collect();
        return Err(unreadable(format!("expected a bundle signed with a key, found {kinds:?}")));
    }
    let envelope = bundle.dsse_envelope;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(unreadable(format!("expected {PAYLOAD_TYPE}, found {}", envelope.payload_type)));
    }
    let decode = |text: &str| {
        STANDARD.decode(text).map_err(|error| unreadable(format!("the envelope is not base64: {error}")))
    };
    let payload = decode(&envelope.payload)?;
    let signatures: Vec<Vec<u8>> =
        envelope.signatures.iter().map(|signed| decode(&signed.sig)).collect::<Result<_, _>>()?;
    let key = read(signature.key, KEY_BYTES).map_err(unreadable)?;
    let key = String::from_utf8(key).map_err(|_| unreadable("the key is no PEM text".into()))?;
    let key = Key::from_pem(&key).ok_or_else(|| {
        unreadable(format!("`{}`: expected a public key of P-256 or P-384 in PEM", signature.key.display()))
    })?;
    let message = authenticated(&envelope.payload_type, &payload);
    if !signatures.iter().any(|signature| key.signed(&message, signature)) {
        return Err((&FORGED, "no signature of the envelope verifies with the key".into()));
    }
    let statement: Statement = serde_json::from_slice(&payload)
        .map_err(|error| unreadable(format!("the signed statement cannot be read: {error}")))?;
    if statement.predicate_type != PREDICATE_TYPE {
        return Err(unreadable(format!("expected {PREDICATE_TYPE}, found {}", statement.predicate_type)));
    }
    Ok(statement)
}

impl Statement {
    /// The signed files with their SHA-256.
    fn files(&self) -> Result<BTreeMap<String, String>, Problem> {
        let Predicate { serialization, resources } = &self.predicate;
        if serialization.method != "files" {
            return Err((&UNREADABLE, format!("expected whole files, found `{}`", serialization.method)));
        }
        let mut digests = Vec::with_capacity(32 * resources.len());
        let mut files = BTreeMap::new();
        for resource in resources {
            if resource.algorithm != "sha256" {
                return Err((&UNREADABLE, format!("expected SHA-256, found `{}`", resource.algorithm)));
            }
            let digest = resource.digest.to_ascii_lowercase();
            digests
                .extend(encoded::hex(&digest).ok_or_else(|| (&UNREADABLE, "a digest is no hex".to_owned()))?);
            files.insert(resource.name.clone(), digest);
        }
        let root = sha256_bytes(&digests);
        let stated = self.subject.first().and_then(|subject| subject.digest.get("sha256"));
        if files.len() != resources.len() || stated != Some(&root) {
            return Err((&FORGED, "the signed list does not match the digest of the whole".into()));
        }
        Ok(files)
    }

    /// Whether the signer left a path out, itself or with its folder.
    fn leaves_out(&self, path: &str) -> bool {
        let mut ignored = self.predicate.serialization.ignore_paths.iter();
        ignored.any(|ignored| {
            path.strip_prefix(ignored.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// What a DSSE signature is over: the pre-authentication encoding.
fn authenticated(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

enum Key {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
}

impl Key {
    fn from_pem(pem: &str) -> Option<Self> {
        p256::ecdsa::VerifyingKey::from_public_key_pem(pem)
            .map(Self::P256)
            .or_else(|_| p384::ecdsa::VerifyingKey::from_public_key_pem(pem).map(Self::P384))
            .ok()
    }

    /// Whether the key's owner signed the message: ECDSA over the hash of the curve's size, DER.
    fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::P256(key) => p256::ecdsa::DerSignature::from_bytes(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::P384(key) => p384::ecdsa::DerSignature::from_bytes(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    inference::weights::json::read_bounded(path, limit).map_err(|error| error.to_string())
}
