// What the service does to clients of the 1.x line: rates, tokens that end, networks without
// WebSockets. Unmodified azure-client 1.2.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import jwt from "jsonwebtoken";
import { Server } from "../support/server.mjs";
import { withoutWebSockets } from "../support/no-websocket.mjs";
import { content, createContainer, deltas, eventually, loadContainer, saved } from "./client.mjs";

let server;
before(async () => (server = await Server.create("--client-ops-per-second", "20")), { timeout: 60_000 });
after(() => server?.remove());

const converged = (a, b) => eventually("both clients have the same content", () => content(a) === content(b));
const dispose = (...sides) => sides.forEach(({ container }) => container.dispose());
const turn = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

test("a client goes on when its token ends, with a fresh one", { timeout: 60_000 }, async () => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id, { lifetime: 4 });
	let cut = 0;
	b.container.on("disconnected", () => cut++);
	for (let i = 0; cut < 2; i++) {
		b.map.set(`edit ${i}`, i);
		await turn(500);
	}
	await saved(b);
	await converged(a, b);
	dispose(a, b);
});

test("ops over the rate come in after all, once each", { timeout: 60_000 }, async () => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id, { user: { id: "fast", name: "Fast" } });
	let refused = 0;
	b.container.on("disconnected", () => refused++);
	for (let i = 0; i < 100; i++) {
		b.map.set(`edit ${i}`, i);
		await turn(0); // of its own: an op of its own
	}
	await saved(b);
	await converged(a, b);
	assert.ok(refused > 0, "it was never over the rate");
	assert.equal((await deltas(server, a.id)).filter((op) => op.type === "op").length, 100);
	dispose(a, b);
});

test("two clients fall back to polling and converge", { timeout: 60_000 }, async () => {
	const network = await withoutWebSockets(server);
	const a = await createContainer(network);
	const b = await loadContainer(network, a.id);
	a.map.set("a", "polled");
	b.map.set("b", "polled");
	await Promise.all([saved(a), saved(b)]);
	await converged(a, b);
	assert.ok(network.seen.upgrades > 0 && network.seen.polls > 0 && network.seen.posts > 0, JSON.stringify(network.seen));
	dispose(a, b);
	await network.close();
});

test("an attachment goes up and down", { timeout: 60_000 }, async () => {
	const a = await createContainer(server);
	const bytes = Buffer.from([0, 255, 1, 254, 128]);
	a.map.set("attachment", await a.container.rootDataObject.runtime.uploadBlob(bytes)); // no public API of 1.x has it
	await saved(a);
	const b = await loadContainer(server, a.id);
	const handle = await eventually("the handle", () => b.map.get("attachment"));
	assert.deepEqual(Buffer.from(await handle.get()), bytes);
	dispose(a, b);
});

test("a read-only token opens a container that cannot be edited", { timeout: 60_000 }, async () => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id, { scopes: ["doc:read"] });
	assert.equal(b.map.get("made"), "detached");
	b.map.set("mine", "kept to itself");
	a.map.set("theirs", "seen");
	await eventually("the writer's edit", () => b.map.get("theirs"));
	assert.equal(a.map.get("mine"), undefined);
	const ops = await deltas(server, a.id);
	assert.equal(ops.filter((op) => op.type === "op").length, 1);
	dispose(a, b);
});

test("a backend is told who created a container by a token that opens nothing", { timeout: 60_000 }, async () => {
	const told = [];
	const a = await createContainer(server, { user: { id: "ada", name: "Ada" }, created: async (...args) => void told.push(args) });
	assert.equal(told.length, 1);
	const [id, token] = told[0];
	assert.equal(id, a.id);
	const claims = jwt.verify(token, server.key, { algorithms: ["HS256"] });
	assert.deepEqual([claims.documentId, claims.scopes, claims.user.id], [a.id, [], "ada"]);
	dispose(a);
});
