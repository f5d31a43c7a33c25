//! `triggerfish support`.

use inference::support::{Support, support};

use crate::args::SupportArguments;
use crate::exit;
use crate::{Outcome, output};

pub(crate) fn run(arguments: &SupportArguments) -> Outcome {
    let support = support();
    let text = match arguments.format.as_str() {
        "json" => output::json(&support)?,
        _ => text(&support),
    };
    output::data(&text)?;
    Ok(exit::PASS)
}

fn text(support: &Support) -> String {
    let mut text = String::from("Base models (model_type)\n");
    for known in &support.architectures {
        text.push_str(&format!("  {:<14} {}\n", known.name, known.detail));
    }
    text.push_str("\nAdapters\n");
    for known in &support.containers {
        text.push_str(&format!("  {:<14} {}\n", known.name, known.detail));
    }
    text.push_str(
        "  a merged checkpoint, as --adapted\n\nPEFT types, with the keys that are refused by name\n",
    );
    for kind in &support.peft_types {
        let refused = if kind.refused.is_empty() { "none".to_owned() } else { kind.refused.join(", ") };
        text.push_str(&format!("  {:<14} {refused}\n", kind.name));
    }
    text.push_str("\nEvery other type, key with effect or tensor is `unsupported, not scanned` (exit 3), never a pass.\n");
    text.push_str(&format!("Readings (--semantics): {}\n", support.semantics.join(", ")));
    text
}
