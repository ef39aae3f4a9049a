/** What the page says, in Chinese. */

import type { Layer, Stage } from "../contract";
import { en, type Words } from "./en";

const { number, short, percent } = en;
const times = (height: number, width = height) => `${height} × ${width}`;

function aboutResponse(layer: Layer, towers: number): string {
  const { features, kernel, stride, exchange } = layer;
  if (layer.kind === "conv") {
    const inputs =
      layer.name === "conv1" ? "图像" : towers === 1 ? "前一层特征图" : exchange ? "所有塔的特征图" : "本塔的特征图";
    const step = stride === 1 ? "逐点" : `每隔 ${stride} 个像素`;
    return (
      `${number(features)} 个卷积核各有一种图案，${step}与${inputs}中 ${times(kernel)} 的窗口比较。` +
      "相符处响应为正，相反处为负。"
    );
  }
  const from = towers === 1 ? "前一层" : exchange ? "所有塔" : "本塔";
  if (layer.kind === "dense") {
    return `${number(features)} 个单元各自对${from}的全部输出加权求和。位置信息至此消失：一个单元代表一种图案的组合，不论它们在何处。`;
  }
  const shares = towers > 1 ? "各塔按顺序分担一部分类别。" : "";
  return `${number(features)} 个类别各有一个单元，对${from}的输出加权求和，再由 softmax 变成概率。${shares}`;
}

function aboutStage({ name, text }: Stage): string {
  if (name === "pool") {
    const overlap = Number(text.stride) < Number(text.window) ? "，因此彼此重叠（论文发现这样略好）" : "";
    return (
      `每个 ${times(Number(text.window))} 的窗口只保留最大值，窗口间隔 ${text.stride} 个像素${overlap}。` +
      "从此，图案是否出现比确切位置更重要。"
    );
  }
  if (name === "lrn") {
    return (
      `每个值除以（${text.k} + ${text.alpha} · 同一位置上相邻 ${text.n} 张特征图的平方和）的 ${text.beta} 次方，` +
      "强的特征图由此抑制相邻的特征图。论文中，这使 top-1 和 top-5 错误率分别降低 1.4 和 1.2 个百分点。"
    );
  }
  if (name === "map_norm") {
    return (
      `每个值除以（1 + ${text.alpha} · 同一特征图中周围 ${times(Number(text.n))} 个像素的平方和）的 ${text.beta} 次方。` +
      "作者的代码这样做，论文没有提到。"
    );
  }
  const dropout = text.dropout ? `训练时，dropout 随机关闭其中 ${Number(text.dropout) * 100}% 的单元。` : "";
  return text.function === "tanh"
    ? `tanh 把每个响应压缩到 −1 与 1 之间，训练比 ReLU 慢好几倍。${dropout}`
    : `ReLU 保留正值，其余置零。论文中，使用 ReLU 的网络达到同样训练误差的速度是 tanh 的好几倍。${dropout}`;
}

export const zh: Words = {
  language: "zh",
  otherLanguage: "English",
  number,
  short,
  percent,

  lead: ({ towers, classes, parameters }) =>
    `一个 AlexNet：${towers === 1 ? "单塔" : `${number(towers)} 座塔`}，` +
    `${number(classes.length)} 个类别，${number(parameters)} 个参数。`,
  privateHere: "它就在本页中运行：您的图像不会离开这台设备。",
  privateServer: "它在本页所在的服务器上运行，服务器不保存图像。",
  footer: (version) => `由 alexnet_jax ${version} 生成。各层、双塔及其交叉连接出自`,
  paper:
    "Krizhevsky、Sutskever 与 Hinton（2012），ImageNet Classification with Deep Convolutional Neural Networks，图 2",
  loading: (loaded, total) => `正在载入网络：${short(loaded / 1e6)} / ${short(total / 1e6)} MB`,
  starting: "正在启动网络……",
  thinking: "思考中……",

  imageAndAnswer: "图像与答案",
  drop: "将图像拖放或粘贴到这里",
  openImage: "打开图像",
  useCamera: "相机",
  takePicture: "拍照",
  close: "关闭",
  examples: "示例",
  example: (label) => `示例：${label}`,
  pictureOf: (name) => `网络看到的图像中央部分${name && `：${name}`}`,
  animated: "这是动画，网络只看第一帧。",
  cameraView: "相机画面",

  fileTooLarge: (most) => `文件超过 ${number(most / 2 ** 20)} MiB。请选择较小的图像。`,
  tooManyPixels: (pixels, most) =>
    `图像有 ${number(Math.round(pixels / 1e4))} 万像素，最多可读 ${number(most / 1e4)} 万。请先缩小。`,
  notAnImage: (name) => `${name || "所选内容"}不是本页能读取的图像，无论文件名如何。请选择 JPEG、PNG 或 WebP 文件。`,
  svg: "SVG 是没有像素的矢量图。请另存为 PNG 再打开。",
  cannotDecode: (format) => `此浏览器无法读取 ${format} 文件。请将图像另存为 JPEG 或 PNG 再打开。`,
  damaged: (name, format) => `${name || `此 ${format} 文件`}已损坏，浏览器无法解码。请换一份。`,
  nothingPasted: "粘贴的内容中没有图像。请复制图像本身，而不是它的地址。",
  noCamera: (why) => `无法使用相机（${why}）。请在浏览器设置中允许，或改为打开文件。`,

  missingFile: (file) => `文件 ${file} 未能载入。请刷新页面；若仍不行，请重新复制整个文件夹。`,
  damagedFile: (file) => `网络在 ${file} 处无法解压：该文件已损坏。请重新复制整个文件夹。`,
  noDecompression: "浏览器过旧，无法解压网络（没有 DecompressionStream）。请使用 2023 年以后的浏览器。",
  noSimd: "此浏览器无法运行网络（没有 WebAssembly SIMD）。请使用 2023 年以后的浏览器，并启用 WebAssembly。",
  networkFailed: (why) => `网络无法在此运行：${why}。请刷新页面；若内存不足，请关闭其他页面。`,
  serverGone: "服务器没有应答。它还在运行吗？",
  serverRefused: (why) => `服务器拒绝了请求：${why}。`,

  bestClasses: "最可能的类别",
  before: (p) => `全部连通时为 ${percent(p)}`,
  evidenceHint: "选择一个类别，看看它的依据在图像何处。",
  evidence: (label) => `遮住红色方块，“${label}”的概率下降；遮住蓝色方块则上升。`,
  evidenceProgress: (done, total) => `正在逐个遮住方块：${done} / ${total}`,
  milliseconds: (ms, where) =>
    `用时 ${ms < 1000 ? `${Math.round(ms)} 毫秒` : `${short(ms / 1000)} 秒`}${where && `（${where}）`}。`,
  where: { wasm: "WebAssembly", webgpu: "WebGPU", server: "服务器" },

  network: "网络",
  tower: (tower) => `塔 ${tower}`,
  sortBy: "强弱依据",
  maximum: "最大值",
  mean: "平均值",
  input: (crop) => `图像，${times(crop)} 像素`,
  noImageYet: "选择一张图像，各层便会显示其最强的特征图。",
  shape: ({ kind, features }, { height, width }) =>
    kind === "conv"
      ? `${number(features)} 张特征图，${times(height, width)}`
      : `${number(features)} 个${kind === "head" ? "类别" : "单元"}`,
  stages: (layer) => `${layer} 的各阶段`,
  stage: ({ name, text }) =>
    ({
      response: "响应",
      activation: text.function === "tanh" ? "tanh" : "ReLU",
      lrn: "归一化",
      map_norm: "图内归一化",
      pool: "池化",
    })[name],
  about: (layer, stage, towers) => (stage.name === "response" ? aboutResponse(layer, towers) : aboutStage(stage)),
  whatHappens: (layer) => `${layer} 做了什么？`,
  sections: (sections) => `论文第 ${sections.join("、")} 节`,
  mapsOf: (layer, tower) => `塔 ${tower} 中 ${layer} 的特征图，由强到弱`,
  mapName: (unit, strength) => `特征图 ${unit}，${short(strength)}`,
  showAll: (count) => `显示全部 ${number(count)} 张`,
  showFewer: "只显示最强的",
  unitsActive: (active, count) => `${number(count)} 个单元中有 ${number(active)} 个激活`,
  unitsOf: (layer, tower) => `塔 ${tower} 中 ${layer} 的单元`,
  classesOf: (tower) => `塔 ${tower} 的类别`,

  link: (layer) => `两塔在 ${layer} 相连`,
  linked: "连通",
  cut: "切断",
  allLinks: "塔间连接",
  carried: (share, tower) => `响应的 ${percent(share)} 来自${tower === null ? "其他塔" : `塔 ${tower}`}`,

  kernels: "conv1 的卷积核",
  kernelsOf: (tower) => `塔 ${tower} 中 conv1 的卷积核`,
  kernel: (unit) => `卷积核 ${unit}`,
  trainingStep: "训练步数",
  stepOf: (step) => `训练 ${number(step)} 步之后`,
  play: "播放",
  stop: "停止",

  unit: (layer, unit) => `${layer}，特征图 ${unit}`,
  previousUnit: "更强",
  nextUnit: "更弱",
  rank: (rank, count, tower, maximum, mean) =>
    `在塔 ${tower} 的 ${number(count)} 张中排第 ${number(rank)}；最大 ${short(maximum)}，平均 ${short(mean)}。`,
  overImage: "它在图像何处激活。方框是其最强点所看到的区域。",
  throughStages: "各阶段",
  itsKernel: "它的卷积核",
  itsInputs: (layer) => `它对 ${layer} 中权重最大的特征图所用的卷积核`,
  inputTowers: (counts) =>
    counts
      .map((count, tower) => [count, tower])
      .filter(([count]) => count > 0)
      .map(([count, tower]) => `塔 ${tower}：${count} 张`)
      .join("，"),
  patches: (searched) => `在 ${number(searched)} 张训练图像中，它响应最强的部分`,
  patch: (response) => `响应 ${short(response)}`,
  newestOnly: (step) => `卷积核与图像片段取自第 ${number(step)} 步。`,

  neighbours: "最接近的训练图像",
  neighboursBy: (layer, count) =>
    `按 ${layer} 的欧氏距离，在 ${number(count)} 张中选出。网络认为相似的，看起来未必相似。`,
  neighbour: (label, distance) => `${label}，距离 ${short(distance)}`,
};
