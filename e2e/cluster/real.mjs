// Unmodified Fluid clients that edit one container until standard input ends; then they
// must agree, and a fresh one must see every edit that any of them made.
import { AzureClient } from "@fluidframework/azure-client";
import { createContainer, eventually, loadContainer } from "../support/client.mjs";

void AzureClient; // imported first, so that a missing package is named

const server = JSON.parse(process.argv[2]); // endpoint, tenantId, key
const a = await createContainer(server);
const b = await loadContainer(server, a.id);
const closed = [];
for (const side of [a, b]) side.container.on("disposed", (error) => closed.push(String(error?.message ?? error)));
console.log("ready");

let going = true;
process.stdin.on("end", () => (going = false)).resume();
let made = 0;
while (going && closed.length === 0) {
	for (const [name, side] of [["a", a], ["b", b]]) side.container.initialObjects.map.set(`${name}-${made}`, made);
	made++;
	await new Promise((resolve) => setTimeout(resolve, 100));
}
const state = () => JSON.stringify({ made, closed, a: a.container.connectionState, b: b.container.connectionState, dirty: [a.container.isDirty, b.container.isDirty] });
if (closed.length > 0) throw new Error("a client was closed for good: " + state());
await eventually(() => "all edits are saved: " + state(), () => !a.container.isDirty && !b.container.isDirty, 90_000);
const c = await loadContainer(server, a.id);
const count = (side) => {
	let n = 0;
	for (let i = 0; i < made; i++) for (const name of ["a", "b"]) if (side.container.initialObjects.map.get(`${name}-${i}`) === i) n++;
	return n;
};
await eventually(() => `all see all ${2 * made} edits: ${[a, b, c].map(count)} ${state()}`, () => [a, b, c].every((side) => count(side) === 2 * made), 60_000);
console.log(`agreed on ${2 * made} edits`);
process.exit(0);
