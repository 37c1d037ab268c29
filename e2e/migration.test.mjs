// A container that comes from another service as Microsoft's copying tool brings it:
// read there as a summary, created here under its id and sequence number.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server } from "./support/server.mjs";
import { deltas, orderer, storage } from "./support/rest.mjs";
import { client, createContainer, eventually, Item, loadContainer, mapContent, saved, schema, treeContent } from "./support/client.mjs";

let source, target;
before(async () => ([source, target] = await Promise.all([Server.create(), Server.create()])), { timeout: 60_000 });
after(() => Promise.all([source?.remove(), target?.remove()]));

/** The flat summary as the nested tree that the create call takes, .app only. */
function nested({ trees: [{ entries }], blobs }) {
	const content = new Map(blobs.map(({ id, content, encoding }) => [id, { content, encoding }]));
	const root = { type: "tree", entries: [] };
	const trees = new Map([[".app", root]]);
	const treeAt = (path) => {
		if (!trees.has(path)) {
			const cut = path.lastIndexOf("/");
			const value = { type: "tree", entries: [] };
			treeAt(path.slice(0, cut)).entries.push({ path: path.slice(cut + 1), type: "tree", value });
			trees.set(path, value);
		}
		return trees.get(path);
	};
	for (const { path, type, id } of entries) {
		if (!path.startsWith(".app/")) continue;
		const cut = path.lastIndexOf("/");
		if (type === "tree") treeAt(path);
		else treeAt(path.slice(0, cut)).entries.push({ path: path.slice(cut + 1), type: "blob", value: { type: "blob", ...content.get(id) } });
	}
	const blobAt = (path) => {
		const { content: text, encoding } = content.get(entries.find((entry) => entry.path === path).id);
		return JSON.parse(Buffer.from(text, encoding).toString());
	};
	const { sequenceNumber } = blobAt(".protocol/attributes");
	return { summary: root, sequenceNumber, values: blobAt(".protocol/quorumValues"), enableDiscovery: true, enableAnyBinaryBlobOnFirstSummary: true };
}

const create = (server, id, body) =>
	orderer(server, id, `/documents/${server.tenantId}`, { method: "POST", body: JSON.stringify({ id, ...body }), claims: { lifetime: 60 } });

test("a container moves with its id and sequence number, and goes on", { timeout: 120_000 }, async () => {
	// At the source: edits until the clients have summarized them.
	const a = await createContainer(source);
	a.tree.root.list.insertAtEnd(new Item({ id: "1", text: "from the source" }));
	for (let i = 0; i < 120; i++) {
		a.container.initialObjects.map.set(`k${i}`, i);
		await new Promise((resolve) => setImmediate(resolve));
	}
	await saved(a.container);
	// As the copying tool reads: the session says where the storage is, the ref which summary is the newest.
	const read = async () => {
		const { historianUrl } = await (await orderer(source, a.id, `/documents/${source.tenantId}/session/${a.id}`)).json();
		assert.equal(historianUrl, source.endpoint);
		const ref = await (await storage(source, a.id, `/repos/${source.tenantId}/git/refs/heads%2F${a.id}`)).json();
		const { sha } = ref.object;
		return nested(await (await storage(source, a.id, `/repos/${source.tenantId}/git/summaries/${sha}`)).json());
	};
	const acks = async () => (await deltas(source, a.id)).filter((op) => op.type === "summaryAck");
	await eventually("a summary at the source", async () => (await acks()).length > 0, 90_000);
	a.container.dispose();
	const body = await read();
	assert.ok(body.sequenceNumber > 0, "the summary holds ops");

	const made = await create(target, a.id, body);
	assert.equal(made.status, 201);
	assert.equal((await made.json()).id, a.id, "under its id");
	const again = await create(target, a.id, body);
	assert.equal(again.status, 409, "an existing container is not overwritten");
	assert.match(await again.json(), /exists already/);

	// At the target: real clients load it, edit it and see each other.
	const b = await loadContainer(target, a.id);
	assert.deepEqual(treeContent(b.tree), [{ id: "1", text: "from the source" }]);
	assert.ok(b.container.initialObjects.map.get("k0") === 0);
	const c = await loadContainer(target, a.id);
	b.container.initialObjects.map.set("from", "b");
	c.tree.root.list.insertAtEnd(new Item({ id: "2", text: "from the target" }));
	await eventually("edits cross", () => c.container.initialObjects.map.get("from") === "b" && b.tree.root.list.length === 2);
	await Promise.all([saved(b.container), saved(c.container)]);
	const ops = await deltas(target, a.id, body.sequenceNumber);
	assert.deepEqual(ops.map((op) => op.sequenceNumber), ops.map((_, i) => body.sequenceNumber + 1 + i), "ops go on where the summary ends");

	// Clients summarize it; after a restart a late joiner has everything.
	for (let i = 0; i < 120; i++) {
		b.container.initialObjects.map.set(`n${i}`, i);
		await new Promise((resolve) => setImmediate(resolve));
	}
	await eventually("a summary at the target", async () => (await deltas(target, a.id, body.sequenceNumber)).some((op) => op.type === "summaryAck"), 90_000);
	await saved(b.container);
	const content = mapContent(b.container);
	for (const side of [b, c]) side.container.dispose();
	await target.stop("SIGKILL");
	await target.start();
	const late = await loadContainer(target, a.id);
	await eventually("a late joiner has everything", () => JSON.stringify(mapContent(late.container)) === JSON.stringify(content));
	assert.deepEqual(treeContent(late.tree).map(({ id }) => id), ["1", "2"]);
	const versions = await client(target).getContainerVersions(a.id, { maxCount: 5 });
	assert.ok(versions.length >= 2, `${versions.length} versions`);
	const { container: first } = await client(target).viewContainerVersion(a.id, schema, versions.at(-1), "2");
	assert.equal(first.initialObjects.map.get("from"), undefined, "the first version is what came");
	assert.equal(first.initialObjects.map.get("k0"), 0);
	first.dispose();
	late.container.dispose();
});
