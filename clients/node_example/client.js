// A client of Triton and the similarity service for Node: plain values in and out, deadlines on every call.
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import * as grpc from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer, loadSync } from "@grpc/proto-loader";

// Fields keep the names of the protos; 64-bit numbers are strings, because ids need all their digits.
const NAMES = { keepCase: true, longs: String, enums: String, defaults: true };
const CHANNEL = {
  "grpc.enable_http_proxy": 0,
  "grpc.enable_retries": 0, // a retry inside grpc would spend budget that the caller does not know of
  "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 5_000,
};

// Triton 24.10 crashes on calls that are cancelled or whose deadline passes (triton-inference-server/server#7368, #8034): those
// that are given up here run to their end there, for so long.
const RUN_OUT_MS = 5_000;

/** No answer, and why: `status` is the gRPC status's name. */
export class NoAnswer extends Error {
  constructor(service, status, detail) {
    super(`${service}: ${status}: ${detail}`);
    this.status = status;
  }
}

/** The answer came after the deadline: it is dropped, never used. */
export class TooLate extends Error {
  constructor(service, lateMs) {
    super(`${service}: the answer came ${lateMs} ms after the deadline`);
  }
}

/**
 * Opens the channels.
 * @param {{triton: string, similarity: string, descriptors: string, protos: string}} where
 *   Addresses as host:port, the file that `tradeserve descriptors` wrote, and the folder of the protos.
 */
export function connect({ triton, similarity, descriptors, protos }) {
  const kserve = grpc.loadPackageDefinition(
    loadFileDescriptorSetFromBuffer(readFileSync(descriptors), NAMES),
  );
  const ours = grpc.loadPackageDefinition(
    loadSync("tradeserve/similarity/v1/similarity_service.proto", { ...NAMES, includeDirs: [protos] }),
  );
  const plain = grpc.credentials.createInsecure();
  const models = new kserve.inference.GRPCInferenceService(`dns:///${triton}`, plain, CHANNEL);
  const states = new ours.tradeserve.similarity.v1.SimilarityService(`dns:///${similarity}`, plain, CHANNEL);
  const underWay = new Set();

  return {
    /** Waits for both connections, at most `timeoutMs`. */
    async ready(timeoutMs) {
      const wait = (client, service) =>
        new Promise((resolve, reject) => {
          client.waitForReady(Date.now() + timeoutMs, (error) =>
            error ? reject(new NoAnswer(service, "UNAVAILABLE", error.message)) : resolve(),
          );
        });
      await Promise.all([wait(models, "triton"), wait(states, "similarity")]);
    },

    /** Asks a model; returns output name -> Float32Array. */
    async infer(model, input, shape, outputs, deadline) {
      const id = uuid7();
      const request = {
        id,
        model_name: model,
        inputs: [{ name: "window", datatype: "FP32", shape }],
        outputs: outputs.map((name) => ({ name })),
        raw_input_contents: [Buffer.from(input.buffer, input.byteOffset, input.byteLength)],
      };
      const { answer, ended } = call(models, "ModelInfer", model, deadline, request, RUN_OUT_MS);
      underWay.add(ended);
      ended.then(() => underWay.delete(ended));
      const response = await answer;
      if (response.id !== id) throw new NoAnswer(model, "INTERNAL", `it answers request ${response.id}`);
      return Object.fromEntries(
        response.outputs.map(({ name, datatype }, at) => {
          if (datatype !== "FP32") throw new NoAnswer(model, "INTERNAL", `output ${name} is ${datatype}`);
          return [name, floats(response.raw_output_contents[at])];
        }),
      );
    },

    /** Searches past states near an embedding of length 1; the nearest come first. */
    async search(index, embedding, count, deadline) {
      const request = {
        request_id: uuid7(),
        index_name: index,
        embedding_f32: Buffer.from(embedding.buffer, embedding.byteOffset, embedding.byteLength),
        neighbor_count: count,
      };
      const response = await call(states, "SearchNeighbors", "similarity", deadline, request).answer;
      return response.neighbors.map((neighbor) => ({
        state_id: neighbor.state_id,
        symbol: neighbor.instrument.symbol,
        event_time: new Date(Number(neighbor.event_time.seconds) * 1000).toISOString(),
        similarity: neighbor.similarity,
        forward_return_bps: neighbor.forward_return_bps,
      }));
    },

    /** Closes the channels once the calls that were given up have ended. */
    async close() {
      await Promise.all(underWay);
      models.close();
      states.close();
    },
  };
}

/**
 * One unary call. Our own clock has the last word; the deadline, and `runOutMs` more, goes to the server.
 * @returns {{answer: Promise<object>, ended: Promise<void>}} What the caller waits for, and when the call is over.
 */
function call(client, method, service, deadline, request, runOutMs = 0) {
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  const answer = new Promise((resolve, reject) => {
    const giveUp = () => reject(new NoAnswer(service, "DEADLINE_EXCEEDED", "no answer by the deadline"));
    const timer = setTimeout(giveUp, deadline - Date.now());
    client[method](request, { deadline: deadline + runOutMs }, (error, response) => {
      clearTimeout(timer);
      end();
      const lateMs = Date.now() - deadline;
      if (error) reject(new NoAnswer(service, grpc.status[error.code], error.details));
      else if (lateMs > 0) reject(new TooLate(service, lateMs));
      else resolve(response);
    });
  });
  return { answer, ended };
}

/** Little-endian float32 bytes as numbers; copied, because a Buffer need not lie on a multiple of four. */
function floats(bytes) {
  return new Float32Array(Uint8Array.from(bytes).buffer);
}

/** A UUID of version 7 (RFC 9562): milliseconds since 1970, then random bits. */
function uuid7() {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
