/** From a file to the pixels that `alexnet prepare` would store of it, or a word on why not. */

import { readHeader } from "./header";
import { Problem } from "./problem";
import { type ReadRows, toSquare } from "./resample";

const MAX_PIXELS = 100_000_000;
const MAX_BYTES = 2 ** 28;

export interface Stored {
  pixels: Uint8Array; // [size, size, 3]
  name: string; // of the file; "" of a photograph or of what was pasted
  animated: boolean;
}

/** The stored pixels of an image file. Throws a Problem. */
export async function readImage(file: Blob, name: string, size: number): Promise<Stored> {
  if (file.size > MAX_BYTES) throw new Problem((words) => words.fileTooLarge(MAX_BYTES));
  const header = readHeader(new Uint8Array(await file.arrayBuffer()));
  checkPixels(header.pixels);
  const { format } = header;
  if (format === null) throw new Problem((words) => words.notAnImage(name));
  if (format === "SVG") throw new Problem((words) => words.svg);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    if (["HEIC", "TIFF", "JPEG 2000", "AVIF"].includes(format))
      throw new Problem((words) => words.cannotDecode(format));
    throw new Problem((words) => words.damaged(name, format));
  }
  try {
    checkPixels(bitmap.width * bitmap.height);
    const side = Math.min(bitmap.width, bitmap.height);
    const left = Math.floor((bitmap.width - side) / 2);
    const top = Math.floor((bitmap.height - side) / 2);
    const seen = { transparent: false };
    let pixels = toSquare(readFrom(bitmap, left, top, side, seen), side, size);
    if (seen.transparent) pixels = transparentSquare(bitmap, left, top, side, size) ?? pixels;
    return { pixels, name, animated: header.animated };
  } finally {
    bitmap.close();
  }
}

function checkPixels(pixels: number): void {
  if (pixels > MAX_PIXELS) throw new Problem((words) => words.tooManyPixels(pixels, MAX_PIXELS));
}

/** Reads rows of the central square, a few at a time, since a canvas of many megapixels is more than phones allow. */
function readFrom(
  bitmap: ImageBitmap,
  left: number,
  top: number,
  side: number,
  seen: { transparent: boolean },
): ReadRows {
  const canvas = document.createElement("canvas");
  canvas.width = side;
  canvas.height = 0;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  return (row, count) => {
    if (canvas.height < count) canvas.height = count;
    context.clearRect(0, 0, side, count);
    context.drawImage(bitmap, left, top + row, side, count, 0, 0, side, count);
    const { data } = context.getImageData(0, 0, side, count);
    for (let i = 3; i < data.length && !seen.transparent; i += 4) seen.transparent = data[i] < 255;
    return data;
  };
}

/**
 * The square scaled, with colours as they are in the file where it is transparent, too: a 2D canvas forgets those, WebGL
 * and Pillow do not. Null where there is no WebGL, or not of that size.
 */
function transparentSquare(
  bitmap: ImageBitmap,
  left: number,
  top: number,
  side: number,
  size: number,
): Uint8Array | null {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl || side > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  gl.pixelStorei(gl.UNPACK_SKIP_PIXELS, left);
  const read: ReadRows = (row, count) => {
    gl.pixelStorei(gl.UNPACK_SKIP_ROWS, top + row);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, side, count, 0, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
    const pixels = new Uint8ClampedArray(side * count * 4);
    gl.readPixels(0, 0, side, count, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(pixels.buffer));
    return pixels;
  };
  const pixels = toSquare(read, side, size);
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // a page may have some ten at a time
  return pixels;
}

/** The bytes of a data URL. */
export function fromDataUrl(url: string): Blob {
  const [head, body] = url.split(",");
  const type = head.slice("data:".length).split(";")[0];
  return new Blob([Uint8Array.from(atob(body), (c) => c.charCodeAt(0))], { type });
}
