/** The worker: onnxruntime-web, and what answers the page's messages, one at a time. */

import type * as Runtime from "onnxruntime-web";
import type { Answer, Message, Outputs } from "./messages";

const sessions = new Map<number, Runtime.InferenceSession>(); // by step

async function answer(ort: typeof Runtime, message: Message, provider: string): Promise<Outputs> {
  if (message.kind === "open") {
    ort.env.wasm.numThreads = 1; // more need headers that no page from a disk has
    ort.env.wasm.wasmBinary = message.wasm;
    return {};
  }
  if (message.kind === "program") {
    if (!message.keep) {
      for (const session of sessions.values()) await session.release();
      sessions.clear();
    }
    const options = { executionProviders: [provider], logSeverityLevel: 3 } as const; // of errors only
    sessions.set(message.step, await ort.InferenceSession.create(new Uint8Array(message.program), options));
    return {};
  }
  const inputs = {
    image: new ort.Tensor("uint8", message.images, message.shape),
    links: new ort.Tensor("float32", Float32Array.from(message.links), [message.links.length]),
  };
  const results = await sessions.get(message.step)!.run(inputs, message.outputs);
  return Object.fromEntries(
    Object.entries(results).map(([name, { dims, data }]) => [name, { shape: dims, data: data as Float32Array }]),
  );
}

export function answerMessages(ort: typeof Runtime, provider: string): void {
  globalThis.onmessage = async ({ data }: MessageEvent<Message>) => {
    let reply: Answer;
    try {
      reply = { outputs: await answer(ort, data, provider) };
    } catch (error) {
      reply = { error: String(error) };
    }
    const buffers = "outputs" in reply ? Object.values(reply.outputs).map(({ data }) => data.buffer) : [];
    postMessage(reply, { transfer: buffers as ArrayBuffer[] });
  };
}
