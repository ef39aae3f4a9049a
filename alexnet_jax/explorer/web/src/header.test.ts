import { expect, test } from "vitest";
import { readHeader } from "./header";

const bytes = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));
const png = (width: string, height: string, chunk = "") =>
  `\x89PNG\r\n\x1a\n\0\0\0\rIHDR${width}${height}\x08\x02\0\0\0????${chunk}`;
const PALETTE = "\0".repeat(6);
const FRAME = "\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x4c\x01\0"; // an image descriptor and its data
const gif = (frames: number) =>
  `GIF89a\x02\0\x03\0\x80\0\0${PALETTE}${`\x21\xf9\x04\0\0\0\0\0${FRAME}`.repeat(frames)}\x3b`;

test.each([
  ["PNG", png("\0\0\x01\0", "\0\0\0\x02"), 512, false],
  ["PNG", png("\0\0\x01\0", "\0\0\0\x02", "\0\0\0\x08acTL"), 512, true],
  ["JPEG", "\xff\xd8\xff\xe0\0\x04??\xff\xff\xc2\0\x11\x08\x01\0\x02\0\x03", 131072, false],
  ["JPEG", "\xff\xd8\xff\xda\0\x04??", 0, false],
  ["GIF", gif(1), 6, false],
  ["GIF", gif(2), 6, true],
  ["WebP", "RIFF????WEBPVP8 ????\x30\x01\0\x9d\x01\x2a\x05\0\x07\0", 35, false],
  ["WebP", "RIFF????WEBPVP8L????\x2f\x04\x80\x01\0", 35, false],
  ["WebP", "RIFF????WEBPVP8X????\x02\0\0\0\x04\0\0\x06\0\0", 35, true],
  ["BMP", `BM${"\0".repeat(16)}\x05\0\0\0\xf9\xff\xff\xff`, 35, false],
  ["AVIF", "\0\0\0\x1cftypavif", 0, false],
  ["HEIC", "\0\0\0\x1cftypheic", 0, false],
  ["TIFF", "II*\0", 0, false],
  ["SVG", '<?xml version="1.0"?><svg xmlns="">', 0, false],
  ["SVG", `<?xml version="1.0"?><!--${" ".repeat(3000)}--><svg>`, 0, false],
  [null, "a text, named .png", 0, false],
  [null, "BM may begin a text, too: it is long enough for a header", 0, false],
  [null, "", 0, false],
  ["JPEG", "\xff\xd8\xff", 0, false],
  ["GIF", "GIF89a", 0, false],
])("%s of %j", (format, content, pixels, animated) => {
  expect(readHeader(bytes(content))).toEqual({ format, pixels, animated });
});
