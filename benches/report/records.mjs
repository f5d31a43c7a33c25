// Makes records that no scan gives by itself: 2,000 rows in each large table, and hostile text in every answer.
//   node records.mjs RECORD.json FOLDER
import { readFileSync, writeFileSync } from "node:fs";

const [source, folder] = process.argv.slice(2);
const record = JSON.parse(readFileSync(source, "utf8"));
const ROWS = 2000;
const HOSTILE =
  "</style></script><script>document.title='owned'</script><img src=http://127.0.0.1:9/x onerror=document.title='owned'>" +
  "\u001b[2J\u001b]8;;http://127.0.0.1:9\u0007\u202etxt.exe\u200b\u{e0041} =1+1";

const fill = (rows) => Array.from({ length: ROWS }, (_, index) => structuredClone(rows[index % rows.length]));
const large = structuredClone(record);
large.evidence.screened = fill(record.evidence.screened);
large.evidence.answers = fill(record.evidence.answers);
large.evidence.answers.forEach((answer, index) => { answer.kl_nats = ((index * 7919) % ROWS) / 1000; });
large.evidence.answers[ROWS - 1].adapted = "the needle in the last row";
writeFileSync(`${folder}/large.json`, JSON.stringify(large));

const hostile = structuredClone(record);
hostile.subject.adapter.name += HOSTILE;
hostile.judgement.reasons.push(HOSTILE);
for (const tested of hostile.evidence.tested) {
  tested.candidate.text += HOSTILE;
  tested.payload.text += HOSTILE;
  for (const example of tested.examples) {
    example.prompt += HOSTILE;
    example.base += HOSTILE;
    example.adapted_without_trigger = HOSTILE;
    example.scores?.adapted.forEach((token) => { token.text += HOSTILE; });
  }
}
for (const answer of hostile.evidence.answers) answer.adapted += HOSTILE;
writeFileSync(`${folder}/hostile.json`, JSON.stringify(hostile));
