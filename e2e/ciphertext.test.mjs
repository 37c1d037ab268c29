// Ciphertext only: nothing that belongs to a container is at rest in the clear.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server } from "./support/server.mjs";
import { deltas } from "./support/rest.mjs";
import { Item, createContainer, eventually, loadContainer, saved } from "./support/client.mjs";
import { canary, files, scan } from "./support/scan.mjs";

let server;
before(async () => (server = await Server.create()), { timeout: 60_000 });
after(() => server?.remove());

test("no canary of ops, summaries, blobs, users or ids is found in the data directory", { timeout: 180_000 }, async () => {
	const planted = {
		op: canary("op"), tree: canary("tree"), key: canary("key"), first: canary("first"),
		blob: canary("blob"), userId: canary("userid"), userName: canary("username"),
	};
	const user = { id: planted.userId, name: planted.userName };
	const a = await createContainer(server, { user });
	const map = a.container.initialObjects.map;
	map.set(planted.key, planted.op);
	a.tree.root.list.insertAt(0, new Item({ id: planted.first, text: planted.tree }));
	map.set("blob", await a.container.uploadBlob(Buffer.from(planted.blob.repeat(3000))));
	for (let i = 0; i < 120; i++) {
		map.set(`k${i % 7}`, planted.op + i);
		await new Promise((resolve) => setImmediate(resolve));
	}
	await saved(a.container);
	await eventually("a summary", async () => (await deltas(server, a.id)).some((op) => op.type === "summaryAck"), 60_000);
	const b = await loadContainer(server, a.id, { user: { id: "reader", name: "Reader" } });
	assert.equal(b.container.initialObjects.map.get(planted.key), planted.op, "the canaries went the whole way");
	a.container.dispose();
	b.container.dispose();

	const canaries = [...Object.values(planted), a.id, server.tenantId, server.key, server.key2];
	assert.deepEqual(scan(server.data, canaries), [], "while it runs");
	await server.stop();
	assert.deepEqual(scan(server.data, canaries), [], "after it stopped");
	assert.ok(files(server.data).length > 3, "there was something to scan");
	await server.start();
	assert.deepEqual(scan(server.data, canaries), [], "after it started again");
	for (const value of canaries) assert.ok(!server.log.includes(value), "nor in the log");
});
