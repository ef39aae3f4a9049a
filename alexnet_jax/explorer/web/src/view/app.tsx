/** The whole page. */

import { useEffect, useMemo, useState } from "preact/hooks";
import type { Progress } from "../backend";
import type { Explorer } from "../explorer";
import { type Colours, readColours } from "../maps";
import { Problem } from "../problem";
import type { Words } from "../words/en";
import { Neighbours } from "./neighbours";
import { Network } from "./network";
import { Examples, Picture } from "./picture";
import { Context } from "./shared";
import { type Chosen, UnitDialog } from "./unit";
import { Bars, Verdict } from "./verdict";

interface AppProps {
  explorer: Explorer;
  words: Words;
  progress: Progress | null;
  otherLanguage: () => void;
}

export function App({ explorer, words, progress, otherLanguage }: AppProps) {
  const [chosen, setChosen] = useState<Chosen | null>(null);
  const colours = useColours();
  const over = useDropsAndPastes(explorer);
  const shown = useMemo(() => {
    const openUnit = (layer: string, unit: number) => setChosen({ layer, unit });
    return { words, explorer, colours, openUnit };
  }, [words, explorer, colours]);
  const { description, problem, backend } = explorer;
  return (
    <Context.Provider value={shown}>
      <header class="masthead">
        <h1>{description.name}</h1>
        <button type="button" class="link" lang={words.language === "en" ? "zh" : "en"} onClick={otherLanguage}>
          {words.otherLanguage}
        </button>
        <p>
          {words.lead(description)} {backend.where === "server" ? words.privateServer : words.privateHere}
        </p>
      </header>
      <main class={over ? "over" : ""}>
        <section class="seen" aria-label={words.imageAndAnswer}>
          <Picture />
          <Examples />
          {problem && (
            <p class="problem" role="alert">
              {problem.say(words)}
            </p>
          )}
          {progress && <Loading {...progress} words={words} />}
          <Verdict />
          <Bars />
        </section>
        <div class="inside-network">
          <Network />
          <Neighbours />
        </div>
      </main>
      <footer>
        <p>
          {words.footer(description.version)} <cite>{words.paper}</cite>.
        </p>
      </footer>
      <UnitDialog chosen={chosen} close={() => setChosen(null)} />
    </Context.Provider>
  );
}

function Loading({ loaded, total, words }: Progress & { words: Words }) {
  const text = loaded < total ? words.loading(loaded, total) : words.starting;
  return (
    <div class="loading">
      <progress aria-label={text} value={loaded} max={total} />
      <p class="note">{text}</p>
    </div>
  );
}

function useColours(): Colours {
  const [colours, setColours] = useState(readColours);
  useEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const changed = () => setColours(readColours());
    dark.addEventListener("change", changed);
    return () => dark.removeEventListener("change", changed);
  }, []);
  return colours;
}

/** Images dropped on the page, anywhere, or pasted into it. Returns whether one is being dragged over it. */
function useDropsAndPastes(explorer: Explorer): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const listening = new AbortController();
    const listen = <K extends keyof DocumentEventMap>(name: K, act: (event: DocumentEventMap[K]) => void) =>
      document.addEventListener(name, act, { signal: listening.signal });
    const show = (file: File) => void explorer.showFile(file, file.name);
    listen("dragover", (event) => {
      event.preventDefault();
      setOver(true);
    });
    listen("dragleave", () => setOver(false));
    listen("drop", (event) => {
      event.preventDefault();
      setOver(false);
      const [file] = event.dataTransfer?.files ?? [];
      if (file) show(file);
    });
    listen("paste", ({ clipboardData }) => {
      const [file] = clipboardData?.files ?? [];
      if (file) show(file);
      else explorer.report(new Problem((words) => words.nothingPasted));
    });
    return () => listening.abort();
  }, [explorer]);
  return over;
}
