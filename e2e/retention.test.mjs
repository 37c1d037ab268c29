// Old ops go away under clients that work on, come late and look back: unmodified azure-client 2.x.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server } from "./support/server.mjs";
import { deltas, orderer } from "./support/rest.mjs";
import { client, createContainer, eventually, loadContainer, mapContent, saved, schema } from "./support/client.mjs";

let server;
before(async () => (server = await Server.create("--op-retention", "1m")), { timeout: 60_000 });
after(() => server?.remove());

test("ops below old summaries are dropped, and clients do not notice", { timeout: 300_000 }, async () => {
	const a = await createContainer(server);
	const first = async () => {
		const response = await orderer(server, a.id, `/deltas/${server.tenantId}/${a.id}?from=0&to=10`);
		return response.status === 200 ? (await response.json())[0].sequenceNumber : await response.json();
	};
	let head = 0;
	const summarise = async (round) => {
		for (let i = 0; i < 120; i++) {
			a.container.initialObjects.map.set(`k${i % 10}`, `round ${round}, ${i}`);
			await new Promise((resolve) => setImmediate(resolve));
		}
		await saved(a.container);
		const ack = await eventually("a summaryAck", async () => (await deltas(server, a.id, head)).find(({ type }) => type === "summaryAck"), 90_000);
		head = ack.sequenceNumber;
	};
	const minute = () => new Promise((resolve) => setTimeout(resolve, 61_000));
	await summarise(1);
	await minute();
	await summarise(2);
	assert.equal(await first(), 1, "within the window all are there");
	await minute();
	await summarise(3);
	const gone = await eventually("old ops to be dropped", async () => { const answer = await first(); return typeof answer === "string" && answer; });
	assert.match(gone, /^The ops up to \d+ are no longer kept: load the newest version of the document\.$/);

	// Who is there works on, who comes late has everything, and old versions can be seen.
	const late = await loadContainer(server, a.id);
	const same = (x, y) => JSON.stringify(mapContent(x.container)) === JSON.stringify(mapContent(y.container));
	await eventually("a late joiner has everything", () => same(a, late));
	late.container.initialObjects.map.set("from", "late");
	await eventually("its edit", () => a.container.initialObjects.map.get("from") === "late");
	const versions = await client(server).getContainerVersions(a.id, { maxCount: 100 });
	const oldest = (await client(server).viewContainerVersion(a.id, schema, versions.at(-1), "2")).container;
	assert.deepEqual(mapContent(oldest), {}, "as it was created");
	oldest.dispose();
	await Promise.all([saved(a.container), saved(late.container)]);
	const want = JSON.stringify(mapContent(a.container));
	for (const side of [a, late]) side.container.dispose();

	await server.stop("SIGKILL");
	await server.start();
	const back = await loadContainer(server, a.id);
	await eventually("the content after a kill", () => JSON.stringify(mapContent(back.container)) === want);
	back.container.initialObjects.map.set("after", "the kill");
	await saved(back.container);
	back.container.dispose();
});
