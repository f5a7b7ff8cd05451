import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const modules = (name) => ({ find: new RegExp(`^${name}(/.*)?$`), replacement: `${here(`./node_modules/${name}`)}$1` });

export default defineConfig({
  root: here("."),
  // The client lies outside of this folder, and takes what it needs from here.
  resolve: { alias: [modules("react"), modules("react-dom"), modules("@tanstack/react-query")] },
  server: { fs: { allow: [here("../..")] } },
  test: { environment: "jsdom", include: ["*.test.js"], testTimeout: 20_000 },
});
