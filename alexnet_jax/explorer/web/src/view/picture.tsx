/** The image: where it comes from, its centre as the network sees it, and where the evidence in it lies. */

import { useEffect, useRef, useState } from "preact/hooks";
import { evidenceFor, GRID, SHARE } from "../evidence";
import type { Stored } from "../image";
import { Problem } from "../problem";
import { Canvas, useShown } from "./shared";

/** Draw the centre crop of stored pixels. */
export function drawCrop(context: CanvasRenderingContext2D, stored: Stored, size: number, crop: number): void {
  const start = Math.floor((size - crop) / 2);
  const picture = context.createImageData(crop, crop);
  for (let y = 0, to = 0; y < crop; y++) {
    for (let x = 0, at = ((y + start) * size + start) * 3; x < crop; x++, at += 3, to += 4) {
      picture.data.set(stored.pixels.subarray(at, at + 3), to);
      picture.data[to + 3] = 255;
    }
  }
  context.putImageData(picture, 0, 0);
}

export function Picture() {
  const { words, explorer } = useShown();
  const { image } = explorer.description;
  const { stored } = explorer;
  return (
    <figure class="picture">
      <div class={`frame${image.crop < 100 ? " coarse" : ""}`}>
        {stored ? (
          <Canvas
            width={image.crop}
            height={image.crop}
            inputs={[stored]}
            draw={(context) => drawCrop(context, stored, image.size, image.crop)}
            label={words.pictureOf(stored.name)}
          />
        ) : (
          <p class="empty">{words.drop}</p>
        )}
        <Evidence />
      </div>
      <Sources />
      {stored?.animated && <p class="note">{words.animated}</p>}
    </figure>
  );
}

const FINE = 20; // pixels of the overlay for each square
const EDGED = GRID + 2; // with the outer squares repeated, so that the overlay reaches the edges

/** The evidence for the chosen class, each value at the centre of its square, smooth in between. */
function Evidence() {
  const { explorer, colours } = useShown();
  const { answer, target, stored } = explorer;
  if (!answer?.evidence || target === null || answer.stored !== stored) return null;
  const values = evidenceFor(target, answer.probabilities, answer.evidence);
  const draw = (context: CanvasRenderingContext2D) => {
    const most = Math.max(0.05, ...values.map(Math.abs)); // nats: less is hardly evidence
    const small = document.createElement("canvas");
    small.width = small.height = EDGED;
    const picture = new ImageData(EDGED, EDGED);
    const inner = (at: number) => Math.min(Math.max(at - 1, 0), GRID - 1);
    for (let i = 0; i < EDGED ** 2; i++) {
      const value = values[inner(Math.floor(i / EDGED)) * GRID + inner(i % EDGED)] ?? 0;
      picture.data.set(value > 0 ? colours.for : colours.against, 4 * i);
      picture.data[4 * i + 3] = (200 * Math.abs(value)) / most;
    }
    small.getContext("2d")!.putImageData(picture, 0, 0);
    const side = SHARE * GRID * FINE;
    const cell = (GRID * FINE - side) / (GRID - 1);
    const margin = (side - cell) / 2 - cell;
    context.drawImage(small, margin, margin, EDGED * cell, EDGED * cell);
  };
  return (
    <Canvas class="evidence" width={GRID * FINE} height={GRID * FINE} inputs={[answer.evidence, target]} draw={draw} />
  );
}

function Sources() {
  const { words, explorer } = useShown();
  const file = useRef<HTMLInputElement>(null);
  const shot = useRef<HTMLInputElement>(null);
  const [stream, setStream] = useState<MediaStream | null>(null);
  const choose = ({ currentTarget }: { currentTarget: HTMLInputElement }) => {
    const chosen = currentTarget.files?.[0];
    if (chosen) void explorer.showFile(chosen, chosen.name);
    currentTarget.value = ""; // so that the same file can be chosen again
  };
  const openCamera = async () => {
    try {
      if (!navigator.mediaDevices) throw new Error("NotSupportedError");
      setStream(await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } }));
    } catch (error) {
      if (matchMedia("(pointer: coarse)").matches)
        shot.current!.click(); // the camera app of a phone
      else
        explorer.report(
          new Problem((words) => words.noCamera(error instanceof DOMException ? error.name : String(error))),
        );
    }
  };
  return (
    <figcaption class="sources">
      <input ref={file} hidden type="file" accept="image/*" id="file" onChange={choose} />
      <input ref={shot} hidden type="file" accept="image/*" capture="environment" onChange={choose} />
      <button type="button" class="link" onClick={() => file.current!.click()}>
        {words.openImage}
      </button>
      <button type="button" class="link" onClick={openCamera}>
        {words.useCamera}
      </button>
      {stream && <Camera stream={stream} close={() => setStream(null)} />}
    </figcaption>
  );
}

function Camera({ stream, close }: { stream: MediaStream; close: () => void }) {
  const { words, explorer } = useShown();
  const dialog = useRef<HTMLDialogElement>(null);
  const video = useRef<HTMLVideoElement>(null);
  const [playing, setPlaying] = useState(false);
  useEffect(() => {
    dialog.current!.showModal();
    video.current!.srcObject = stream;
    video.current!.play().catch(() => {}); // closed before it began
    return () => stream.getTracks().forEach((track) => track.stop());
  }, [stream]);
  const take = () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.current!.videoWidth;
    canvas.height = video.current!.videoHeight;
    canvas.getContext("2d")!.drawImage(video.current!, 0, 0);
    canvas.toBlob((blob) => blob && void explorer.showFile(blob, ""));
    dialog.current!.close();
  };
  return (
    <dialog ref={dialog} class="camera" aria-label={words.cameraView} onClose={close}>
      <video ref={video} playsInline muted onPlaying={() => setPlaying(true)} />
      <button type="button" class="take" disabled={!playing} onClick={take}>
        {words.takePicture}
      </button>
      <button type="button" class="link" onClick={() => dialog.current!.close()}>
        {words.close}
      </button>
    </dialog>
  );
}

export function Examples() {
  const { words, explorer } = useShown();
  const { examples } = explorer.description;
  if (examples.length === 0) return null;
  return (
    <div
      class="examples"
      role="group"
      aria-label={words.examples}
      style={{ "--columns": Math.min(examples.length, 10) }}
    >
      {examples.map(({ picture, label }, i) => (
        <button
          key={i}
          type="button"
          title={label}
          aria-label={words.example(label)}
          onClick={() => void explorer.showExample(i)}
        >
          <img src={picture} alt="" />
        </button>
      ))}
    </div>
  );
}
