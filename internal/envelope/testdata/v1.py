"""Makes v1.json from docs/formats/sealed.md alone, sharing no code with the package.

    python3 v1.py > v1.json        (needs the `cryptography` package)

Format 1 is frozen: running this again must change nothing. A kind that is new is added.
"""
import hashlib, hmac, json, struct
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SERVICE, ROOT, DOCUMENT = bytes(range(0, 32)), bytes(range(32, 64)), bytes(range(64, 128))
RESOURCE, HANDLE, KEY_ID, EPOCH = b"R" * 16, b"D" * 16, b"K" * 8, 7
PLACE = RESOURCE + HANDLE + KEY_ID + struct.pack(">I", EPOCH)


def field(b):
    return struct.pack(">I", len(b)) + b


def fixed(label, size):
    """Stands where the package draws random bytes."""
    return hashlib.sha256(label.encode()).digest()[:size]


def hkdf(key, salt, info, size):
    prk, out, t, i = hmac.digest(salt or bytes(32), key, "sha256"), b"", b"", 1
    while len(out) < size:
        t = hmac.digest(prk, t + info + bytes([i]), "sha256")
        out, i = out + t, i + 1
    return out[:size]


def header(key, kind, facts, salt, *context):
    h = b"TDLK" + bytes([1, 1, kind, 0]) + facts + salt
    bound = field(h) + b"".join(map(field, context))
    sealing = hkdf(key, salt, field(b"tidelock/1/sealing-key") + bound, 32)
    return h + hkdf(key, salt, field(b"tidelock/1/key-commitment") + bound, 16), sealing


def seal(sealing, nonce, plaintext, *data):
    return nonce + AESGCM(sealing).encrypt(nonce, plaintext, b"".join(map(field, data)))


def box(name, key, kind, facts, plaintext, *context):
    h, sealing = header(key, kind, facts, fixed(name + " salt", 16), *context)
    return h + seal(sealing, fixed(name + " nonce", 12), plaintext, h, *context)


def obj(label, kind, name, plaintext):
    facts = PLACE + struct.pack(">Q", len(plaintext))
    h, sealing = header(DOCUMENT[:32], kind, facts, fixed(label + " salt", 16), name)
    out, chunks = h, [plaintext[i:i + (1 << 20)] for i in range(0, len(plaintext), 1 << 20)] or [b""]
    for i, chunk in enumerate(chunks):
        last = bytes([i == len(chunks) - 1])
        out += seal(sealing, fixed(f"{label} nonce {i}", 12), chunk, h, name, struct.pack(">I", i), last)
    return out


def segment(label, term, first, prev, prev_records, batches):
    facts = PLACE + struct.pack(">QQ32sQ", term, first, prev, prev_records)
    h, sealing = header(DOCUMENT[:32], 1, facts, fixed(label + " salt", 16))
    links, records = [hashlib.sha256(h).digest()], []
    for i, (last, plaintext) in enumerate(batches):
        rh = struct.pack(">IQQQ32s", 88 + len(plaintext), i, first, last, links[-1])
        r = rh + seal(sealing, fixed(f"{label} nonce {i}", 12), plaintext, h, rh)
        links.append(hashlib.sha256(rh + r[-16:]).digest())
        records.append({"first": first, "last": last, "plaintext": plaintext.decode(), "sealed": r.hex()})
        first = last + 1
    return {"header": h.hex(), "records": records, "links": [l.hex() for l in links]}


def naming(*fields):
    return hmac.digest(fields[0], b"".join(map(field, fields[1:])), "sha256")


service_naming = hkdf(SERVICE, b"", field(b"tidelock/1/naming-key"), 32)
row_name, object_name = naming(service_naming, b"documents", b"notes"), naming(DOCUMENT[32:], b"\x03", b"3b18e512")
partition = b"P" * 32
big = bytes(i * 7 % 251 for i in range((1 << 20) + 3))

one = segment("segment one", 4, 1, bytes(32), 0, [(1, b"one op"), (4, b"three ops"), (5, b"")])
two = segment("segment two", 5, 6, bytes.fromhex(one["links"][-1]), 3, [(9, b"after a restart")])

# Kinds 7 to 9: the root key of the next epoch, a wrapped root key, a head anchor.
next_root, next_epoch, generation = bytes(range(160, 192)), EPOCH + 1, 3
retention, wrapped = bytes(range(192, 224)), b"what the customer's key wrapped"
next_retention = hmac.digest(retention, field(b"tidelock/1/next-retention-key") + b"\x01", "sha256")
retained = box("retained", retention, 8, b"", wrapped, RESOURCE, struct.pack(">I", EPOCH), struct.pack(">Q", generation))
anchored = {"term": 5, "seq": 9, "chain": two["links"][-1], "counter": 12}
anchor = b"TDLK" + bytes([1, 1, 9, 0]) + PLACE + struct.pack(">QQ32sQ", 5, 9, bytes.fromhex(two["links"][-1]), 12)
anchor += hmac.digest(hkdf(DOCUMENT[:32], b"", field(b"tidelock/1/anchor"), 32), anchor, "sha256")

print(json.dumps({
    "keys": {"service": SERVICE.hex(), "root": ROOT.hex(), "document": DOCUMENT.hex()},
    "place": {"resource": RESOURCE.hex(), "document": HANDLE.hex(), "key_id": KEY_ID.hex(), "epoch": EPOCH},
    "root_commitment": hkdf(ROOT, b"", field(b"tidelock/1/root-commitment") + field(RESOURCE)
                            + field(struct.pack(">I", EPOCH)), 32).hex(),
    "row": {"table": "documents", "id": "notes", "name": row_name.hex(), "partition": partition.hex(),
            "plaintext": "a row", "sealed": box("row", SERVICE, 4, b"", b"a row", b"documents", partition, row_name).hex()},
    "document_key": {"sealed": box("document key", ROOT, 5, PLACE, DOCUMENT).hex()},
    "key": {"label": "root key of contoso", "plaintext": "32 bytes of somebody's root key.",
            "sealed": box("key", SERVICE, 6, b"", b"32 bytes of somebody's root key.", b"root key of contoso").hex()},
    "object": {"kind": 3, "id": "3b18e512", "name": object_name.hex(), "plaintext": "a blob",
               "sealed": obj("object", 3, object_name, b"a blob").hex()},
    "empty_checkpoint": {"kind": 2, "id": "", "name": naming(DOCUMENT[32:], b"\x02", b"").hex(), "plaintext": "",
                         "sealed": obj("checkpoint", 2, naming(DOCUMENT[32:], b"\x02", b""), b"").hex()},
    "two_chunks": {"plaintext_bytes": len(big), "sha256": hashlib.sha256(obj("big", 3, object_name, big)).hexdigest()},
    "segments": [one, two],
    "next_root": {"epoch": next_epoch, "plaintext": next_root.hex(),
                  "sealed": box("next root", ROOT, 7, b"", next_root, RESOURCE, struct.pack(">I", next_epoch)).hex()},
    "retained": {"key": retention.hex(), "next_key": next_retention.hex(), "epoch": EPOCH, "generation": generation,
                 "plaintext": wrapped.decode(), "sealed": retained.hex()},
    "anchor": {**anchored, "sealed": anchor.hex()},
}, indent=1))
