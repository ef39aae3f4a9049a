/** What the page says, in English. */

import type { Description, Layer, Stage } from "../contract";

const number = new Intl.NumberFormat("en");
const whole = new Intl.NumberFormat("en", { style: "percent" });
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

const times = (height: number, width = height) => `${height} × ${width}`;
const ordinal = (n: number) => {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" } as Record<string, string>;
  return `${number.format(n)}${ending[new Intl.PluralRules("en", { type: "ordinal" }).select(n)]}`;
};

function aboutResponse(layer: Layer, towers: number): string {
  const { features, kernel, stride, exchange } = layer;
  const inputs =
    layer.name === "conv1"
      ? "the image"
      : towers === 1
        ? "the maps before it"
        : exchange
          ? "the maps of all towers"
          : "the maps of its own tower";
  if (layer.kind === "conv") {
    const step = stride === 1 ? "at every place" : `at every ${ordinal(stride)} pixel of both directions`;
    return (
      `Each of the ${number.format(features)} kernels compares a window of ${times(kernel)} pixels of ${inputs} ` +
      `with its pattern, ${step}. Where the two agree its map is positive, and where they are opposites, negative.`
    );
  }
  const from = towers === 1 ? "the layer before" : exchange ? "all towers" : "its own tower";
  if (layer.kind === "dense") {
    return (
      `Each of the ${number.format(features)} units weighs all outputs of ${from} and adds them up. ` +
      "Places are gone by now: a unit stands for a combination of patterns, wherever they were."
    );
  }
  return (
    `One unit for each of the ${number.format(features)} classes weighs the outputs of ${from}; softmax ` +
    `turns the sums into probabilities.${towers > 1 ? " Each tower holds a share of the classes, in their order." : ""}`
  );
}

function aboutStage({ name, text }: Stage): string {
  if (name === "pool") {
    const overlap =
      Number(text.stride) < Number(text.window) ? ", so that they overlap, which the paper finds a little better" : "";
    return (
      `Of each window of ${times(Number(text.window))} pixels only the largest value is kept; the windows lie ` +
      `${text.stride} pixels apart${overlap}. That a pattern is there now matters more than exactly where.`
    );
  }
  if (name === "lrn") {
    return (
      `Each value is divided by (${text.k} + ${text.alpha} · the sum of squares of ${text.n} neighbouring maps ` +
      `at the same place) to the power of ${text.beta}, so that strong maps quiet those beside them. In the paper ` +
      "this lowers the top-1 and top-5 errors by 1.4 and 1.2 percentage points."
    );
  }
  if (name === "map_norm") {
    return (
      `Each value is divided by (1 + ${text.alpha} · the sum of squares of the ${times(Number(text.n))} pixels ` +
      `around it in its own map) to the power of ${text.beta}. ` +
      "The authors' code does this; the paper does not mention it."
    );
  }
  const dropout = text.dropout
    ? ` In training, dropout silences ${whole.format(Number(text.dropout))} of these units at random.`
    : "";
  return text.function === "tanh"
    ? `tanh presses every response into the range from −1 to 1, and trains several times slower than ReLU.${dropout}`
    : "ReLU keeps what is positive and sets the rest to zero. In the paper, networks with it reach the same training " +
        `error several times faster than with tanh.${dropout}`;
}

export const en = {
  language: "en",
  otherLanguage: "中文",
  number: (n: number) => number.format(n),
  short: (n: number) => short.format(n).replace("-", "−"),
  percent: (p: number) => percent.format(p),

  // The frame
  lead: ({ towers, classes, parameters }: Description) =>
    `An AlexNet of ${towers === 1 ? "one tower" : `${number.format(towers)} towers`} with ` +
    `${number.format(classes.length)} classes and ${number.format(parameters)} parameters.`,
  privateHere: "It runs in this page: your images stay on this device.",
  privateServer: "It runs on the server that this page comes from, which keeps no images.",
  footer: (version: string) =>
    `Made by alexnet_jax ${version}. The layers, the towers and their crossings are those of`,
  paper:
    "Krizhevsky, Sutskever and Hinton (2012), " +
    "ImageNet Classification with Deep Convolutional Neural Networks, Figure 2",
  loading: (loaded: number, total: number) =>
    `Loading the network: ${short.format(loaded / 1e6)} of ${short.format(total / 1e6)} MB`,
  starting: "Starting the network …",
  thinking: "Thinking …",

  // The image
  imageAndAnswer: "Image and answer",
  drop: "Drop an image here, or paste one",
  openImage: "Open an image",
  useCamera: "Camera",
  takePicture: "Take the picture",
  close: "Close",
  examples: "Examples",
  example: (label: string) => `Example: ${label}`,
  pictureOf: (name: string) => `The centre of the image${name && ` ${name}`}, as the network sees it`,
  animated: "This image is animated; the network sees its first frame.",
  cameraView: "What the camera sees",

  // Problems with an image
  fileTooLarge: (most: number) =>
    `This file is larger than ${number.format(most / 2 ** 20)} MiB. Choose a smaller image.`,
  tooManyPixels: (pixels: number, most: number) =>
    `This image has ${number.format(Math.round(pixels / 1e6))} million pixels, and ${number.format(most / 1e6)} ` +
    "million is the most that is read. Scale it down first.",
  notAnImage: (name: string) =>
    `${name || "What you chose"} is not an image that this page can read, whatever its name says. ` +
    "Choose a JPEG, PNG or WebP file.",
  svg: "An SVG file is a drawing without pixels. Save it as PNG, then open that.",
  cannotDecode: (format: string) =>
    `This browser cannot read ${format} files. Save the image as JPEG or PNG, then open that.`,
  damaged: (name: string, format: string) =>
    `${name || `This ${format} file`} is damaged: the browser cannot decode it. Try another copy.`,
  nothingPasted: "There is no image among what was pasted. Copy an image, not its address.",
  noCamera: (why: string) => `The camera cannot be used (${why}). Allow it in the browser's settings, or open a file.`,

  // Problems with the network
  missingFile: (file: string) =>
    `The file ${file} did not come. Reload the page; if that does not help, copy the whole folder again.`,
  damagedFile: (file: string) =>
    `The network does not unpack at ${file}: that file is damaged. Copy the whole folder again.`,
  noDecompression:
    "This browser is too old to unpack the network (no DecompressionStream). Use one from 2023 or later.",
  noSimd:
    "This browser cannot run the network (no WebAssembly SIMD). " +
    "Use one from 2023 or later, with WebAssembly switched on.",
  networkFailed: (why: string) =>
    `The network cannot run here: ${why}. Reload the page; close others if memory is short.`,
  serverGone: "The server does not answer. Is it still running?",
  serverRefused: (why: string) => `The server refuses: ${why}.`,

  // The answer
  bestClasses: "Best classes",
  before: (p: number) => `${percent.format(p)} with all links`,
  evidenceHint: "Choose a class to see where the evidence for it lies.",
  evidence: (label: string) => `Covering a red square makes “${label}” less likely; covering a blue one, more.`,
  evidenceProgress: (done: number, total: number) => `Covering one square after another: ${done} of ${total}`,
  milliseconds: (ms: number, where: string) =>
    `Answered in ${ms < 1000 ? `${Math.round(ms)} ms` : `${short.format(ms / 1000)} s`}${where && `, by ${where}`}.`,
  where: { wasm: "WebAssembly", webgpu: "WebGPU", server: "the server" },

  // The network
  network: "The network",
  tower: (tower: number) => `Tower ${tower}`,
  sortBy: "Strongest by",
  maximum: "maximum",
  mean: "mean",
  input: (crop: number) => `The image, ${times(crop)} pixels`,
  noImageYet: "Choose an image, and each layer shows its strongest maps.",
  shape: ({ kind, features }: Layer, { height, width }: Stage) =>
    kind === "conv"
      ? `${number.format(features)} maps of ${times(height, width)}`
      : `${number.format(features)} ${kind === "head" ? "classes" : "units"}`,
  stages: (layer: string) => `Stages of ${layer}`,
  stage: ({ name, text }: Stage): string =>
    ({
      response: "response",
      activation: text.function === "tanh" ? "tanh" : "ReLU",
      lrn: "normalized",
      map_norm: "normalized in its map",
      pool: "pooled",
    })[name],
  about: (layer: Layer, stage: Stage, towers: number) =>
    stage.name === "response" ? aboutResponse(layer, towers) : aboutStage(stage),
  whatHappens: (layer: string) => `What happens in ${layer}?`,
  sections: (sections: string[]) => `Paper, ${sections.length > 1 ? "sections" : "section"} ${sections.join(" and ")}`,
  mapsOf: (layer: string, tower: number) => `Maps of ${layer} in tower ${tower}, strongest first`,
  mapName: (unit: number, strength: number) => `Map ${unit}, ${short.format(strength)}`,
  showAll: (count: number) => `Show all ${number.format(count)}`,
  showFewer: "Show the strongest",
  unitsActive: (active: number, count: number) =>
    `${number.format(active)} of ${number.format(count)} units are active`,
  unitsOf: (layer: string, tower: number) => `Units of ${layer} in tower ${tower}`,
  classesOf: (tower: number) => `Classes of tower ${tower}`,

  // Links
  link: (layer: string) => `Towers linked in ${layer}`,
  linked: "linked",
  cut: "cut",
  allLinks: "Towers linked",
  carried: (share: number, tower: number | null) =>
    `${percent.format(share)} of the response from ${tower === null ? "the other towers" : `tower ${tower}`}`,

  // Training
  kernels: "Kernels of conv1",
  kernelsOf: (tower: number) => `Kernels of conv1 in tower ${tower}`,
  kernel: (unit: number) => `Kernel ${unit}`,
  trainingStep: "Training step",
  stepOf: (step: number) => `after ${number.format(step)} ${step === 1 ? "step" : "steps"} of training`,
  play: "Play",
  stop: "Stop",

  // One map
  unit: (layer: string, unit: number) => `${layer}, map ${unit}`,
  previousUnit: "Stronger",
  nextUnit: "Weaker",
  rank: (rank: number, count: number, tower: number, maximum: number, mean: number) =>
    `${ordinal(rank)} of ${number.format(count)} in tower ${tower}; ` +
    `at most ${short.format(maximum)}, on average ${short.format(mean)}.`,
  overImage: "Where in the image it fires. The frame is what its strongest place sees.",
  throughStages: "Stage by stage",
  itsKernel: "Its kernel",
  itsInputs: (layer: string) => `Its kernels for the maps of ${layer} that it weighs most`,
  inputTowers: (counts: number[]) =>
    counts
      .map((count, tower) => [count, tower])
      .filter(([count]) => count > 0)
      .map(([count, tower]) => `${count} from tower ${tower}`)
      .join(", "),
  patches: (searched: number) => `What it responds to most, among ${number.format(searched)} training images`,
  patch: (response: number) => `Response ${short.format(response)}`,
  newestOnly: (step: number) => `Kernels and patches are those of step ${number.format(step)}.`,

  // Neighbours
  neighbours: "Nearest training images",
  neighboursBy: (layer: string, count: number) =>
    `By the Euclidean distance of their ${layer}, among ${number.format(count)}. ` +
    `What the network finds alike need not look alike.`,
  neighbour: (label: string, distance: number) => `${label}, at a distance of ${short.format(distance)}`,
};

export type Words = typeof en;
