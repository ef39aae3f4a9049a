/** What the page and the worker that runs the network say to each other. */

export interface Tensor {
  shape: readonly number[];
  data: Float32Array;
}

export type Outputs = Record<string, Tensor>; // by name, as in contract.ts

export type Message =
  | { kind: "open"; wasm: ArrayBuffer }
  | { kind: "program"; step: number; program: ArrayBuffer; keep: boolean }
  | { kind: "run"; step: number; images: Uint8Array; shape: number[]; links: number[]; outputs: string[] };

export type Answer = { outputs: Outputs } | { error: string };
