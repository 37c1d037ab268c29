// Clients over their limits: unmodified azure-client 2.x waits, comes back and loses nothing.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server } from "./support/server.mjs";
import { createContainer, eventually, loadContainer, mapContent, saved } from "./support/client.mjs";

let server;
before(async () => {
	server = await Server.create();
	await server.stop();
}, { timeout: 60_000 });
after(() => server?.remove());

test("ops over the rate come in after all, once each", { timeout: 120_000 }, async () => {
	await server.start("serve", "--client-ops-per-second", "20");
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	let disconnects = 0;
	a.container.on("disconnected", () => disconnects++);
	for (let i = 0; i < 100; i++) {
		a.container.initialObjects.map.set(`key-${i}`, i);
		await new Promise((resolve) => setImmediate(resolve)); // a turn of its own: an op of its own
	}
	await eventually("all edits acknowledged", () => !a.container.isDirty, 60_000);
	await eventually("both clients agree", () => {
		const [mine, theirs] = [mapContent(a.container), mapContent(b.container)];
		return JSON.stringify(mine) === JSON.stringify(theirs) && b.container.initialObjects.map.get("key-99") === 99;
	});
	assert.ok(disconnects > 0, "the client was never over its rate");
	assert.ok(!a.container.disposed, "the client gave up");
	await server.stop();
});

test("connections and requests over the tenant's rates are made later", { timeout: 120_000 }, async () => {
	await server.start("serve", "--tenant-connects-per-second", "1", "--tenant-requests-per-second", "4");
	const first = await createContainer(server);
	first.container.initialObjects.map.set("k", "v");
	await saved(first.container);
	const others = await Promise.all(Array.from({ length: 6 }, () => loadContainer(server, first.id)));
	for (const { container } of others) {
		await eventually("a late client has the content", () => container.initialObjects.map.get("k") === "v", 60_000);
		assert.ok(!container.disposed);
	}
	await server.stop();
});

test("the client over the limit of a document waits, and the others go on", { timeout: 60_000 }, async () => {
	await server.start("serve", "--max-clients-per-document", "2");
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	await eventually("two are connected", () => [...a.services.audience.getMembers().values()].length === 2);
	const c = await loadContainer(server, a.id).catch((error) => error);
	a.container.initialObjects.map.set("still", "here");
	await eventually("the others go on", () => b.container.initialObjects.map.get("still") === "here");
	assert.equal([...a.services.audience.getMembers().values()].length, 2);
	c.container?.dispose();
	await server.stop();
});
