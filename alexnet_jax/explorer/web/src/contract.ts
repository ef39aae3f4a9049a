/**
 * What an explorer's folder holds, as the Python side writes it and the page reads it.
 *
 * Every file but index.html is a classic script, since pages opened from disk may load nothing else: it calls
 * `explorer(NAME, VALUE)`, NAME being its path without ".js". The page adds the script when it needs the value.
 *
 * network.js          Description
 * units/LAYER.js      Units, one file for each convolutional layer
 * neighbours.js       Neighbours, where training images are bundled
 * programs/STEP.N.js  piece N of the network of a step: base64 of a part of the gzip-compressed ONNX program
 * runtime/KIND.js     a function to run in a worker: onnxruntime-web's glue for a kind of runtime, "wasm" or "webgpu",
 *                     and what answers the page; copied from built/runtime/, as index.html, explorer.js and
 *                     explorer.css are from built/
 * runtime/KIND.N.js   piece N of its WebAssembly, in the same form: built/runtime/KIND.wasm.xz, unpacked
 *
 * The program's inputs: image [batch, size, size, 3] uint8, pixels as `alexnet prepare` stores them, and links
 * [Description.links.length] float32, 1 or 0: whether the towers see each other in that layer (an empty
 * tensor where there are none). Its outputs, float32: probabilities [batch, classes], and LAYER.STAGE for every stage:
 * [batch, features, height, width] of convolutional layers, [batch, features] of others, the towers' shares one after
 * another. All shares are ceil(features / towers) long but fc8's last, which ends with the classes.
 */

export interface Description {
  format: 1;
  name: string; // of the run
  version: string; // of alexnet_jax
  backend: "browser" | "server"; // where the network runs; a server has no programs
  image: { size: number; crop: number }; // sides of stored images and of the centre crop that the network sees, pixels
  mean: [number, number, number]; // colour of the training images, 0..255: what squares of the image are covered with
  towers: number;
  classes: string[];
  parameters: number;
  precision: "float32" | "float16"; // of the newest step's weights, as stored; the others' are float16
  runtime: Record<string, Pieces>; // by kind: "wasm" and, for large networks, "webgpu"; {} of a server
  steps: Step[]; // the network along training, in order; the last is the newest
  layers: Layer[];
  links: string[]; // names of the layers in which the towers meet
  examples: Picture[]; // of the validation images, for visitors without an image of their own
  units: number; // strongest patches of each unit in units/LAYER.js, in the newest step; 0: there are no such files
  searched: number; // training images that they were searched for in
  neighbours: number; // training images in neighbours.js, seen by the newest step; 0: there is no such file
  sources: Record<string, string>; // a layer's kind or an operation, as in Stage.name -> "file:line" of its code
}

export interface Step {
  step: number; // training steps taken
  program: Pieces | null; // null: asked of the server
  conv1: string; // data URL: conv1's kernels in one row, all of tower 0, then all of tower 1, ...
}

export interface Pieces {
  name: string; // piece N is the file NAME.N.js
  bytes: number[]; // of each piece, before base64
}

export interface Layer {
  name: string; // conv1 ... conv6, fc6, fc7, fc8
  kind: "conv" | "dense" | "head";
  features: number; // of all towers
  exchange: boolean; // whether its inputs are those of all towers
  kernel: number; // side, pixels; 0 unless convolutional, as are the next two
  stride: number;
  field: { size: number; stride: number; start: number }; // of its convolution's outputs, in pixels of the crop
  stages: Stage[]; // in order; the last is the layer's output, which hidden dense layers alone have
  section: string; // of the paper
}

export interface Stage {
  name: "response" | "activation" | "lrn" | "map_norm" | "pool";
  height: number; // 0 unless convolutional
  width: number;
  text: Record<string, number | string>; // of the operation: window and stride of pool, k, n, alpha and beta of lrn and
  // of map_norm (without k), function of activation ("relu" or "tanh")
}

export interface Picture {
  picture: string; // data URL, of a stored image
  label: string; // name of its class
}

/** Of each unit (map) of a convolutional layer, the towers' shares one after another. */
export interface Units {
  side: number; // of a patch in the sprite, pixels
  patches: string; // data URL: units in rows, `Description.units` patches in columns, strongest first
  responses: number[][]; // [unit][patch], before the activation; fewer where fewer images respond
  kernelSide: number; // of a kernel in the sprite, pixels: Layer.kernel
  kernels: string; // data URL; conv1: one column, in colour; others: the kernels of the strongest inputs, grey is 0
  inputs: number[][]; // [unit][column of kernels]: index of the map of the layer before; [] for conv1
}

/** Training images with what the network makes of them. */
export interface Neighbours {
  side: number; // of a picture in the sprite, pixels
  columns: number; // pictures in a row of the sprite
  pictures: string; // data URL
  labels: number[];
  layer: string; // the layer whose last stage is compared, by Euclidean distance
  vectors: string; // base64 of float16 [images, features]
}

/**
 * What POST api/run?step=N&links=1,0&outputs=NAME,NAME of a server answers to raw pixels [batch, size, size, 3].
 * `links` are as in the program, "" where there are none. Refusals are JSON: {"detail": "why"}.
 */
export interface ServerAnswer {
  // 4 bytes: the length N of the header; N bytes: this header as JSON; then float32 of all outputs; all little-endian
  outputs: { name: string; shape: number[] }[];
}
