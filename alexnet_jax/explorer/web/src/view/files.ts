import { useEffect, useState } from "preact/hooks";
import { load } from "../loading";
import { Problem } from "../problem";
import { useShown } from "./shared";

const files = new Map<string, Promise<unknown>>();

/** The value of a file of the folder, once it has come; null until then, or if `name` is. */
export function useFile<T>(name: string | null): T | null {
  const { explorer } = useShown();
  const [value, setValue] = useState<{ name: string; value: T } | null>(null);
  useEffect(() => {
    if (name === null) return;
    if (!files.has(name)) files.set(name, load(name));
    files.get(name)!.then(
      (value) => setValue({ name, value: value as T }),
      (problem: Problem) => {
        files.delete(name); // so that it can be tried again
        explorer.report(problem);
      },
    );
  }, [name]);
  return value?.name === name ? value.value : null;
}
