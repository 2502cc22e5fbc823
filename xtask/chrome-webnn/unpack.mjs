// node unpack.mjs FOLDER: unpacks Chromium and its GL libraries from the package that npm brought beside this file, and
// fails where a file is not the one that files.json names. The libraries must lie beside the program.
import { createHash } from "node:crypto";
import { createReadStream, createWriteStream, readFileSync } from "node:fs";
import { chmod } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";
import { extract } from "tar-fs";

const folder = process.argv[2];
const packed = new URL("node_modules/@sparticuz/chromium/bin/", import.meta.url);
const unpack = (name, into) =>
  pipeline(createReadStream(new URL(name, packed)), createBrotliDecompress(), into);

const program = join(folder, "chromium");
await unpack("chromium.br", createWriteStream(program));
await unpack("swiftshader.tar.br", extract(folder));
await chmod(program, 0o755);

const wanted = JSON.parse(readFileSync(new URL("files.json", import.meta.url)));
for (const [name, digest] of Object.entries(wanted)) {
  const hash = createHash("sha256");
  await pipeline(createReadStream(join(folder, name)), hash);
  const found = hash.digest("hex");
  if (found !== digest) throw new Error(`${name} has the sha256 ${found}, not ${digest}`);
}
