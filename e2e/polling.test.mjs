// Where WebSockets do not get through, clients poll: the real socket.io-client and
// unmodified azure-client 2.x.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, test } from "node:test";
import { io } from "socket.io-client";
import { Server } from "./support/server.mjs";
import { withoutWebSockets } from "./support/no-websocket.mjs";
import { deltas } from "./support/rest.mjs";
import { Item, createContainer, eventually, loadContainer, mapContent, saved, sign, treeContent } from "./support/client.mjs";

let server;
before(async () => (server = await Server.create()), { timeout: 60_000 });
after(() => server?.remove());

const event = (socket, name) => new Promise((resolve, reject) => {
	socket.once(name, (...args) => resolve(args));
	socket.once("connect_error", reject);
});

function open(transports) {
	const socket = io(server.endpoint, { transports, reconnection: false, forceNew: true });
	return socket;
}

const connectMessage = (id) => ({
	tenantId: server.tenantId, id, token: sign(server, id), mode: "write", nonce: randomUUID(), versions: ["^0.4.0"],
	client: { mode: "write", permission: [], scopes: [], details: { capabilities: { interactive: true } }, user: { id: "" } },
	supportedFeatures: { submit_signals_v2: true },
});

/** Connects to the document, submits n ops and returns what came back in order. */
async function submit(socket, id, n) {
	const got = [], ended = [];
	socket.on("op", (_, ops) => got.push(...ops));
	socket.on("nack", (...nack) => ended.push("nack", JSON.stringify(nack)));
	socket.on("disconnect", (reason) => ended.push("disconnect", reason));
	const success = event(socket, "connect_document_success");
	socket.emit("connect_document", connectMessage(id));
	const [{ clientId }] = await success;
	// As the real clients: nothing is submitted before one's own join was seen.
	const join = () => got.find((op) => op.type === "join" && JSON.parse(op.data).clientId === clientId);
	await eventually(() => `the join among ${got.length} ops ${ended}`, join);
	const { sequenceNumber: seen } = join();
	for (let i = 1; i <= n; i++) {
		const op = { clientSequenceNumber: i, referenceSequenceNumber: seen, type: "op", contents: JSON.stringify(`é\u001e${i}`) };
		socket.emit("submitOp", clientId, [[op]]);
		if (i % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
	}
	const mine = () => got.filter((op) => op.clientId === clientId);
	await eventually(() => `${mine().length} of ${n} ops ${ended}`, () => mine().length === n);
	return mine();
}

async function document() {
	const { container, id } = await createContainer(server);
	await saved(container);
	container.dispose();
	return id;
}

test("socket.io-client polls: ops, acknowledgements and a goodbye", { timeout: 60_000 }, async () => {
	const id = await document();
	const socket = open(["polling"]);
	await event(socket, "connect");
	assert.equal(socket.io.engine.transport.name, "polling");
	const ops = await submit(socket, id, 100);
	assert.deepEqual(ops.map((op) => op.clientSequenceNumber), ops.map((_, i) => i + 1));
	assert.equal(JSON.parse(ops[6].contents), "é\u001e7");
	assert.deepEqual(await socket.emitWithAck("ping"), undefined);
	assert.equal(socket.io.engine.transport.name, "polling", "it was never upgraded");
	socket.disconnect();
	await eventually("the leave of the client", async () => (await deltas(server, id)).at(-1).type !== "op");
});

test("socket.io-client upgrades to a WebSocket in the middle of traffic", { timeout: 60_000 }, async () => {
	const id = await document();
	for (let round = 0; round < 5; round++) {
		const socket = open(["polling", "websocket"]);
		const upgraded = new Promise((resolve) => socket.io.once("open", () => socket.io.engine.once("upgrade", resolve)));
		await event(socket, "connect");
		const ops = await submit(socket, id, 200);
		assert.deepEqual(ops.map((op) => op.clientSequenceNumber), ops.map((_, i) => i + 1), "nothing lost, repeated or overtaken");
		await upgraded;
		assert.equal(socket.io.engine.transport.name, "websocket");
		await socket.emitWithAck("ping");
		socket.disconnect();
	}
});

test("a page of any origin may poll, and an unknown session is refused as engine.io does", async () => {
	const url = `${server.endpoint}/socket.io/?EIO=4&transport=polling`;
	const preflight = await fetch(url, { method: "OPTIONS", headers: { Origin: "https://app.example", "Access-Control-Request-Headers": "x-a" } });
	assert.equal(preflight.status, 204);
	assert.match(preflight.headers.get("access-control-allow-methods"), /POST/);
	const opened = await fetch(url);
	assert.equal(opened.headers.get("access-control-allow-origin"), "*");
	assert.match(await opened.text(), /^0\{.*"upgrades":\["websocket"\]/);
	const unknown = await fetch(`${url}&sid=none`, { method: "POST", body: "40" });
	assert.equal(unknown.status, 400);
	assert.equal(unknown.headers.get("access-control-allow-origin"), "*");
	assert.deepEqual(await unknown.json(), { code: 1, message: "Session ID unknown" });
});

test("two azure-clients fall back to polling and converge", { timeout: 120_000 }, async () => {
	const behind = await withoutWebSockets(server);
	const a = await createContainer(behind);
	const b = await loadContainer(behind, a.id);
	const far = await loadContainer(server, a.id); // elsewhere, over a WebSocket
	const edit = async (side, name) => {
		for (let i = 0; i < 20; i++) {
			side.container.initialObjects.map.set(`${name}-${i}`, i);
			side.container.initialObjects.map.set("contended", `${name} ${i}`);
			side.tree.root.list.insertAt(0, new Item({ id: `${name}-${i}`, text: `text ${i}` }));
			await new Promise((resolve) => setImmediate(resolve));
		}
	};
	const sides = { a, b, far };
	await Promise.all(Object.entries(sides).map(([name, side]) => edit(side, name)));
	await Promise.all(Object.values(sides).map(({ container }) => saved(container)));
	const content = (side) => JSON.stringify([mapContent(side.container), treeContent(side.tree)]);
	await eventually("all have the same content", () => content(a) === content(b) && content(a) === content(far));
	assert.equal(treeContent(a.tree).length, 60);
	const ops = await deltas(server, a.id);
	assert.deepEqual(ops.map((op) => op.sequenceNumber), ops.map((_, i) => i + 1), "one order without gap or repeat");
	assert.ok(behind.seen.upgrades >= 2 && behind.seen.polls > 4 && behind.seen.posts > 4, JSON.stringify(behind.seen));

	a.container.dispose();
	await eventually("a has left the audience", () => b.services.audience.getMembers().size === 2);
	b.container.dispose();
	far.container.dispose();
	await behind.close();
});
