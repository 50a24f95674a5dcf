#!/usr/bin/env node
// Asks lstm_cnn and gaf_resnet in Triton, then the similarity service, within one latency budget.
//
//   tradeserve descriptors kserve.binpb     (once: Triton's API, from the Python client's messages)
//   npm ci
//   node main.js --triton HOST:PORT --similarity HOST:PORT
//
// Exit status: 0 answered in time, 1 no answer (the reason is printed), 2 wrong usage.
import { parseArgs } from "node:util";
import { join } from "node:path";
import { connect, NoAnswer, TooLate } from "./client.js";

const USAGE =
  "usage: node main.js --triton HOST:PORT --similarity HOST:PORT [--timeout-ms 1000] [--count 5] [--json]\n" +
  "                    [--descriptors kserve.binpb] [--protos ../../protos]";
const BARS = 60;
const CONNECT_MS = 5000;

/** A made-up random walk: 60 bars of open, high, low, close, volume, the oldest first. */
function madeUpWindow() {
  const window = new Float32Array(BARS * 5);
  let seed = 7;
  const dice = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  let open = 100;
  for (let bar = 0; bar < BARS; bar += 1) {
    const close = open * Math.exp((dice() - 0.5) * 0.004);
    const high = Math.max(open, close) + 0.02 * dice();
    const low = Math.min(open, close) - 0.02 * dice();
    window.set([open, high, low, close, 1000 + 9000 * dice()], bar * 5);
    open = close;
  }
  return window;
}

function options() {
  const { values } = parseArgs({
    options: {
      triton: { type: "string" },
      similarity: { type: "string" },
      descriptors: { type: "string", default: join(import.meta.dirname, "kserve.binpb") },
      protos: { type: "string", default: join(import.meta.dirname, "..", "..", "protos") },
      "timeout-ms": { type: "string", default: "1000" },
      count: { type: "string", default: "5" },
      json: { type: "boolean", default: false },
    },
  });
  const timeoutMs = Number(values["timeout-ms"]);
  const count = Number(values.count);
  if (!values.triton || !values.similarity) throw new TypeError("--triton and --similarity are needed");
  if (!(timeoutMs > 0)) throw new TypeError("--timeout-ms must be a number above 0");
  if (!(Number.isInteger(count) && count > 0 && count <= 256)) throw new TypeError("--count must be 1 to 256");
  return { ...values, timeoutMs, count };
}

async function run({ triton, similarity, descriptors, protos, timeoutMs, count, json }) {
  const client = connect({ triton, similarity, descriptors, protos });
  try {
    await client.ready(CONNECT_MS); // a handshake costs more than a call: keep it out of the budget
    const window = madeUpWindow();
    const began = performance.now();
    const deadline = Date.now() + timeoutMs; // one instant for all calls
    const [lstm, gaf] = await Promise.all([
      client.infer("lstm_cnn", window, [1, BARS, 5], ["probabilities"], deadline),
      client.infer("gaf_resnet", window, [1, BARS, 5], ["probabilities", "embedding"], deadline),
    ]);
    const neighbors = await client.search("market_states", gaf.embedding, count, deadline);
    const tookMs = performance.now() - began;
    const probabilities = { lstm_cnn: [...lstm.probabilities], gaf_resnet: [...gaf.probabilities] };
    if (json) {
      console.log(JSON.stringify({ answered: true, took_ms: tookMs, probabilities, neighbors }));
      return;
    }
    for (const [model, [down, flat, up]] of Object.entries(probabilities)) {
      console.log(`${model}: down ${down.toFixed(3)} flat ${flat.toFixed(3)} up ${up.toFixed(3)}`);
    }
    for (const { symbol, event_time, similarity: cosine, forward_return_bps } of neighbors) {
      console.log(`${cosine.toFixed(4)} ${symbol} ${event_time} ${forward_return_bps.toFixed(1)} bps`);
    }
    console.log(`${tookMs.toFixed(1)} of ${timeoutMs} ms`);
  } finally {
    await client.close();
  }
}

try {
  await run(options());
} catch (error) {
  if (error instanceof NoAnswer || error instanceof TooLate) {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  } else if (error instanceof TypeError || error.code === "ENOENT") {
    console.error(`error: ${error.message}\n${USAGE}`);
    process.exitCode = 2;
  } else {
    throw error;
  }
}
