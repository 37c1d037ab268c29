// Finds planted text in files, in the encodings it could have been stored in.
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Random text that no compressor shortens and no other data contains. */
export const canary = (label) => label + randomBytes(16).toString("hex");

/** The ways a canary could be at rest in the clear; base64 at each of its three alignments. */
export function encodings(canary) {
	const plain = Buffer.from(canary, "utf8");
	const forms = new Map([
		["utf-8", plain],
		["utf-16le", Buffer.from(canary, "utf16le")],
		["utf-16be", Buffer.from(canary, "utf16le").swap16()],
		["hex", Buffer.from(plain.toString("hex"))],
		["HEX", Buffer.from(plain.toString("hex").toUpperCase())],
		["reversed", Buffer.from(plain).reverse()],
	]);
	for (const shift of [0, 1, 2]) {
		// The first and last groups mix with the neighbours: compare what lies between.
		const padded = Buffer.concat([Buffer.alloc(shift), plain]);
		for (const kind of ["base64", "base64url"]) {
			const text = padded.toString(kind).replace(/=+$/, "");
			forms.set(`${kind}+${shift}`, Buffer.from(text.slice(shift ? 4 : 0, -4)));
		}
	}
	return forms;
}

/** Every file below dir. */
export function files(dir) {
	return readdirSync(dir, { recursive: true, withFileTypes: true })
		.filter((entry) => entry.isFile())
		.map((entry) => join(entry.parentPath ?? entry.path, entry.name));
}

/** Where which canary was found, in which encoding. */
export function scan(dir, canaries) {
	const hits = [];
	for (const file of files(dir)) {
		const content = readFileSync(file);
		for (const canary of canaries)
			for (const [encoding, form] of encodings(canary))
				if (content.includes(form)) hits.push({ file, canary, encoding });
	}
	return hits;
}
