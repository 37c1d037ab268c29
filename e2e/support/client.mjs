// Unmodified Fluid clients, and what tests ask of them.
import { randomUUID } from "node:crypto";
import jwt from "jsonwebtoken";

globalThis.navigator ??= {}; // Node.js 20 has none, and the clients expect one

const { AzureClient } = await import("@fluidframework/azure-client");
const { SharedTree, SchemaFactory, TreeViewConfiguration, ConnectionState } = await import("fluid-framework");
const { SharedMap } = await import("fluid-framework/legacy");

export { ConnectionState };

const all = ["doc:read", "doc:write", "summary:write"];

/** Signs a token as an application's backend would. */
export function sign(server, documentId, { user, scopes = all, key = server.key, tenantId = server.tenantId, issued = Date.now(), lifetime = 3600 } = {}) {
	const iat = Math.floor(issued / 1000);
	return jwt.sign(
		{ tenantId, documentId, scopes, user: user ?? { id: "tester" }, ver: "1.0", iat, exp: iat + lifetime, jti: randomUUID() },
		key,
		{ algorithm: "HS256" },
	);
}

export function connection(server, options) {
	const token = async (tenantId, documentId) => ({ jwt: sign(server, documentId ?? "", options) });
	if (options?.type === "local") {
		return { type: "local", endpoint: server.endpoint, tokenProvider: { fetchOrdererToken: token, fetchStorageToken: token } };
	}
	return {
		type: "remote",
		endpoint: server.endpoint,
		tenantId: options?.tenantId ?? server.tenantId,
		tokenProvider: { fetchOrdererToken: token, fetchStorageToken: token },
	};
}

/** A new client; user is {id, name}. */
export function client(server, options = {}) {
	return new AzureClient({ connection: connection(server, { user: { id: randomUUID(), name: "Tester" }, ...options }) });
}

const factory = new SchemaFactory("tidelock.e2e");
export class Item extends factory.object("Item", { id: factory.string, text: factory.string }) {}
export class List extends factory.array("List", Item) {}
export class Root extends factory.object("Root", { list: List }) {}
const view = new TreeViewConfiguration({ schema: Root });

export const schema = { initialObjects: { map: SharedMap, tree: SharedTree } };

/** Opens the tree of a container; fresh ones are given their first content. */
export function openTree(container, { fresh = false } = {}) {
	const tree = container.initialObjects.tree.viewWith(view);
	if (fresh) tree.initialize(new Root({ list: [] }));
	return tree;
}

export async function createContainer(server, options) {
	const { container, services } = await client(server, options).createContainer(schema, "2");
	const tree = openTree(container, { fresh: true });
	const id = await container.attach();
	return { container, services, tree, id };
}

export async function loadContainer(server, id, options) {
	const { container, services } = await client(server, options).getContainer(id, schema, "2");
	return { container, services, tree: openTree(container), id };
}

/** Waits until check() gives something true; fails with what() after the deadline. */
export async function eventually(what, check, milliseconds = 20_000) {
	const deadline = Date.now() + milliseconds;
	for (;;) {
		const value = await check();
		if (value) return value;
		if (Date.now() > deadline) throw new Error(`not within ${milliseconds} ms: ${typeof what === "function" ? what() : what}`);
		await new Promise((resolve) => setTimeout(resolve, 20));
	}
}

/** Waits until all local edits are acknowledged. */
export const saved = (container) => eventually("all edits acknowledged", () => !container.isDirty);

/** The plain values of the map; handles are not JSON. */
export const mapContent = (container) =>
	Object.fromEntries([...container.initialObjects.map.entries()].filter(([, value]) => typeof value !== "object").sort());
export const treeContent = (tree) => [...tree.root.list].map(({ id, text }) => ({ id, text }));
