// A bundle behind HTTP. GET /?text=… or POST / with {"text": "…"}: one JSON answer. GET /golden: the golden vectors, checked here and now.
// With an argument it answers that text and ends; with --golden it checks the golden vectors and ends, with code 1 when one differs.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import * as ort from "onnxruntime-node";
import { Tokenizer } from "@huggingface/tokenizers";
import { Bundle } from "./bundle.mjs";

const MOST = 64 * 1024; // bytes of a request; a longer text would be cut off anyway

const bundle = await Bundle.open((name) => readFile(new URL(`bundle/${name}`, import.meta.url)), single(ort), Tokenizer);

/** ONNX Runtime with one thread: a student answers in a millisecond or two, and many requests come at once. */
function single(ort) {
  const create = (model) => ort.InferenceSession.create(model, { intraOpNumThreads: 1, interOpNumThreads: 1 });
  return { Tensor: ort.Tensor, InferenceSession: { create } };
}

class Refused extends Error {}

/** The text of a request. Throws Refused when there is none. */
async function asked(request) {
  if (request.method === "GET") return wanted(new URL(request.url, "http://here").searchParams.get("text"));
  let body = "";
  for await (const part of request) {
    body += part;
    if (body.length > MOST) throw new Refused(`The request has more than ${MOST} bytes.`);
  }
  try {
    return wanted(JSON.parse(body)?.text);
  } catch (problem) {
    throw problem instanceof Refused ? problem : new Refused(`The body is no JSON: ${problem.message}.`);
  }
}

function wanted(text) {
  if (typeof text !== "string" || !text) throw new Refused('There is no text. Send GET /?text=… or POST {"text": "…"}.');
  return text;
}

async function handle(request, response) {
  const say = (code, value) => response.writeHead(code, { "content-type": "application/json; charset=utf-8" }).end(`${JSON.stringify(value)}\n`);
  try {
    if (!["GET", "POST"].includes(request.method)) return say(405, { error: "Send GET or POST." });
    if (request.url === "/golden") return say(200, await bundle.check());
    say(200, await bundle.ask(await asked(request)));
  } catch (problem) {
    say(problem instanceof Refused ? 400 : 500, { error: problem.message });
  }
}

const [argument] = process.argv.slice(2);
if (argument === "--golden") {
  const found = await bundle.check();
  console.log(JSON.stringify(found));
  process.exitCode = found.golden === "equal" ? 0 : 1;
} else if (argument !== undefined) {
  console.log(JSON.stringify(await bundle.ask(argument)));
} else {
  // This machine alone, unless HOST says otherwise: a service that anybody may ask is somebody's decision.
  const server = createServer(handle).listen(Number(process.env.PORT ?? 8000), process.env.HOST ?? "127.0.0.1", () => {
    const { address, port } = server.address();
    console.log(`http://${address.includes(":") ? `[${address}]` : address}:${port}`);
  });
}
