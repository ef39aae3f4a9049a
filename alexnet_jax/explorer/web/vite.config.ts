import { defineConfig, type Plugin } from "vite";

/** Makes a runtime a function: pages opened from disk cannot load a worker, but can start one from a function's text. */
const asFunction = (name: string): Plugin => ({
  name: "as-function",
  enforce: "pre",
  transform: (code) => code.replaceAll("import.meta.url", "location.href"), // and without the files next to it
  generateBundle(_, bundle) {
    for (const file of Object.values(bundle)) {
      if (file.type === "chunk") file.code = `explorer("runtime/${name}",function(){${file.code}});\n`;
    }
  },
});

/** One script for each mode: "explorer" is the page, "wasm" and "webgpu" the runtimes. */
export default defineConfig(({ mode }) => {
  const page = mode === "explorer";
  return {
    publicDir: page ? "public" : false,
    define: { "process.env.NODE_ENV": '"production"' },
    plugins: page ? [] : [asFunction(mode)],
    build: {
      outDir: page ? "../built" : "../built/runtime",
      emptyOutDir: page,
      target: "es2022",
      modulePreload: false,
      reportCompressedSize: false,
      lib: {
        entry: page ? "src/main.tsx" : `src/runtime/${mode}.ts`,
        formats: ["iife"],
        name: "script",
        fileName: () => (page ? "explorer.js" : `${mode}.js`),
        cssFileName: "explorer",
      },
    },
    test: { include: ["src/**/*.test.ts"] },
  };
});
