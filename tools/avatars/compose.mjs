// Composes avatars of DiceBear's "Pixel Art" (CC0 1.0) and prints one JSON line each: {"svg": ..., "asked": ...}.
// Reads what is asked for, a JSON line each, from standard input: options of the style, and a seed that chooses the rest.
import { createInterface } from "node:readline";
import { createAvatar } from "@dicebear/core";
import * as pixelArt from "@dicebear/pixel-art";

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  console.log(JSON.stringify({ svg: createAvatar(pixelArt, asked).toString() }));
}
