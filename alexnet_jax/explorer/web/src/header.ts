/** What the first bytes of an image file say, before anything is decoded. */

export interface Header {
  format: "PNG" | "JPEG" | "GIF" | "WebP" | "BMP" | "AVIF" | "HEIC" | "TIFF" | "JPEG 2000" | "SVG" | null;
  pixels: number; // 0: not known before decoding
  animated: boolean;
}

/** The first bytes of files; "?" stands for any. */
const SIGNATURES: [string, Header["format"]][] = [
  ["\x89PNG\r\n\x1a\n", "PNG"],
  ["\xff\xd8\xff", "JPEG"],
  ["GIF8", "GIF"],
  ["RIFF????WEBP", "WebP"],
  ["BM????\0\0\0\0", "BMP"],
  ["????ftypavi", "AVIF"],
  ["????ftyphe", "HEIC"],
  ["????ftypm?f1", "HEIC"],
  ["II*\0", "TIFF"],
  ["MM\0*", "TIFF"],
  ["\0\0\0\x0cjP", "JPEG 2000"],
];

export function readHeader(bytes: Uint8Array): Header {
  const start = String.fromCharCode(...bytes.subarray(0, 4096));
  const signature = SIGNATURES.find(([first]) => [...first].every((c, i) => c === "?" || c === start[i]));
  const format = signature?.[1] ?? (/<svg[\s>]/i.test(start) ? "SVG" : null);
  const [width, height] =
    format === null ? [0, 0] : size(format, new DataView(bytes.buffer, bytes.byteOffset, bytes.length));
  return { format, pixels: width * height, animated: isAnimated(format, bytes, start) };
}

function size(format: Header["format"], view: DataView): [number, number] {
  const little = true;
  try {
    switch (format) {
      case "PNG":
        return [view.getUint32(16), view.getUint32(20)];
      case "JPEG":
        return jpegSize(view);
      case "GIF":
        return [view.getUint16(6, little), view.getUint16(8, little)];
      case "BMP":
        return [Math.abs(view.getInt32(18, little)), Math.abs(view.getInt32(22, little))];
      case "WebP":
        return webpSize(view);
      default:
        return [0, 0];
    }
  } catch (error) {
    if (error instanceof RangeError) return [0, 0]; // the file is shorter than its header; decoding says so
    throw error;
  }
}

function jpegSize(view: DataView): [number, number] {
  for (let at = 2; ; at += 2 + view.getUint16(at + 2)) {
    while (view.getUint8(at + 1) === 0xff) at++; // fill bytes
    const marker = view.getUint8(at + 1);
    const startsFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (startsFrame) return [view.getUint16(at + 7), view.getUint16(at + 5)];
    if (view.getUint8(at) !== 0xff || marker === 0xda) return [0, 0];
  }
}

function webpSize(view: DataView): [number, number] {
  const kind = String.fromCharCode(view.getUint8(12), view.getUint8(13), view.getUint8(14), view.getUint8(15));
  const bits = view.getUint32(kind === "VP8L" ? 21 : 26, true);
  if (kind === "VP8 ") return [bits & 0x3fff, (bits >>> 16) & 0x3fff];
  if (kind === "VP8L") return [(bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1];
  const three = (at: number) => view.getUint16(at, true) + (view.getUint8(at + 2) << 16);
  return [three(24) + 1, three(27) + 1];
}

function isAnimated(format: Header["format"], bytes: Uint8Array, start: string): boolean {
  if (format === "PNG") return start.includes("acTL");
  if (format === "WebP") return start.startsWith("VP8X", 12) && (bytes[20] & 2) !== 0;
  if (format === "AVIF") return start.startsWith("avis", 8);
  return format === "GIF" && gifFrames(bytes) > 1;
}

/** The number of frames, or 2 if there are more. */
function gifFrames(bytes: Uint8Array): number {
  const palette = (flags: number) => (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0);
  let frames = 0;
  for (let at = 13 + palette(bytes[10]); at < bytes.length && frames < 2;) {
    const block = bytes[at];
    if (block === 0x2c) {
      frames++;
      at += 11 + palette(bytes[at + 9]);
    } else if (block === 0x21) at += 2;
    else break;
    while (bytes[at]) at += bytes[at] + 1; // sub-blocks
    at++;
  }
  return frames;
}
