// The scanner that finds nothing in a data directory must be able to find.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { canary, encodings, scan } from "./support/scan.mjs";

test("the scanner finds what is in the clear, in every encoding it claims", () => {
	const dir = mkdtempSync(join(tmpdir(), "tidelock-control-"));
	try {
		const value = canary("control");
		for (const [encoding, form] of encodings(value)) {
			writeFileSync(join(dir, "file"), Buffer.concat([randomBytes(1001), form, randomBytes(77)]));
			assert.ok(scan(dir, [value]).some((hit) => hit.encoding === encoding), `found as ${encoding}`);
		}
		for (const shift of [0, 1, 2, 3, 4]) {
			const inside = Buffer.concat([randomBytes(shift), Buffer.from(value), randomBytes(5)]);
			writeFileSync(join(dir, "file"), inside.toString("base64"));
			assert.ok(scan(dir, [value]).length > 0, `found inside base64 at offset ${shift}`);
		}
	} finally {
		rmSync(dir, { recursive: true, force: true });
	}
});
