package vault

import (
	"context"
	"slices"
	"time"
)

func createKey(ctx context.Context, s *Service, c *call) (any, error) {
	var body createBody
	if err := decode(c.body, &body); err != nil {
		return nil, err
	}
	spec, err := body.spec(c.vault)
	if err != nil {
		return nil, err
	}
	row := versionRow{Enabled: true, Tags: body.Tags}
	if row.Operations, err = operations(body.Operations, spec.operations()); err != nil {
		return nil, err
	}
	if err := body.Attributes.apply(&row); err != nil {
		return nil, err
	}
	if err := checkTags(body.Tags); err != nil {
		return nil, err
	}
	if err := s.spend(c.vault, true, spec.units()); err != nil {
		return nil, err
	}
	k, row, err := s.create(ctx, c.vault, c.target.key, spec, row)
	return s.answer(c, k, row, err)
}

func getKey(ctx context.Context, s *Service, c *call) (any, error) {
	k, row, _, err := s.version(ctx, c.vault, c.target.key, c.target.version)
	return s.answer(c, k, row, err)
}

func updateKey(ctx context.Context, s *Service, c *call) (any, error) {
	var body updateBody
	if err := decode(c.body, &body); err != nil {
		return nil, err
	}
	if !absent(body.ReleasePolicy) {
		return nil, badParameter("Property 'release_policy' is not supported by this vault.")
	}
	if err := checkTags(body.Tags); err != nil {
		return nil, err
	}
	k, row, err := s.update(ctx, c.vault, c.target.key, c.target.version, func(row *versionRow) error {
		if body.Operations != nil {
			ops, err := operations(body.Operations, row.spec().operations())
			if err != nil {
				return err
			}
			row.Operations = ops
		}
		if body.Tags != nil {
			row.Tags = body.Tags
		}
		return body.Attributes.apply(row)
	})
	return s.answer(c, k, row, err)
}

func (v versionRow) spec() keySpec {
	return keySpec{kind: v.Type, bits: v.Bits, curve: v.Curve, mac: v.MAC}
}

func deleteKey(ctx context.Context, s *Service, c *call) (any, error) {
	k, row, err := s.remove(ctx, c.vault, c.target.key)
	return s.answer(c, k, row, err)
}

func getDeleted(ctx context.Context, s *Service, c *call) (any, error) {
	k, _, err := s.deletedKey(ctx, c.vault, c.target.key)
	if err != nil {
		return nil, err
	}
	row, _, err := s.versions.Get(ctx, s.versionKey(c.vault, k.Name, k.newest()))
	return s.answer(c, k, row, err)
}

func recoverKey(ctx context.Context, s *Service, c *call) (any, error) {
	k, row, err := s.restore(ctx, c.vault, c.target.key)
	return s.answer(c, k, row, err)
}

func purgeKey(ctx context.Context, s *Service, c *call) (any, error) {
	return nil, s.purge(ctx, c.vault, c.target.key)
}

// answer is the bundle of a version, which the audit log then names exactly.
func (s *Service) answer(c *call, k keyRow, row versionRow, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	c.keyID = s.keyID(c.vault, k.Name, row.ID)
	b, err := s.bundle(c.vault, k, row)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func releaseKey(context.Context, *Service, *call) (any, error) {
	return nil, badParameter("Operation release is not supported by this vault: none of its keys is exportable. Use unwrapKey or decrypt.")
}

func attestKey(context.Context, *Service, *call) (any, error) {
	return nil, badParameter("Key attestation is not supported by this vault.")
}

// randomBytes serves POST /rng of a managed HSM.
func randomBytes(_ context.Context, s *Service, c *call) (any, error) {
	const most = 128
	var body struct {
		Count int `json:"count"`
	}
	if err := decode(c.body, &body); err != nil {
		return nil, err
	}
	if body.Count < 1 || body.Count > most {
		return nil, badParameter("Property 'count' has an invalid value: it is from 1 to %d.", most)
	}
	if s.token == nil {
		return nil, errNoToken
	}
	b, err := s.token.Random(body.Count)
	if err != nil {
		return nil, err
	}
	value := encodeBinary(b)
	return backupBody{Value: &value}, nil
}

// operate serves the crypto operations.
func operate(ctx context.Context, s *Service, c *call) (any, error) {
	operation := c.route.permission
	k, row, _, err := s.version(ctx, c.vault, c.target.key, c.target.version)
	if err != nil {
		return nil, err
	}
	c.keyID = s.keyID(c.vault, k.Name, row.ID)
	spec, err := row.likeSpec()
	if err != nil {
		return nil, err
	}
	if err := s.spend(c.vault, false, spec.units()-1); err != nil { // the first was spent on the way here
		return nil, err
	}
	if err := row.usable(operation, time.Now()); err != nil {
		return nil, err
	}
	var body operateBody
	if err := decode(c.body, &body); err != nil {
		return nil, err
	}
	if err := row.checkAlgorithm(operation, body.Algorithm, c.keyID); err != nil {
		return nil, err
	}
	if !slices.Contains(row.Operations, operation) {
		return nil, forbidden("", "Operation %s is not permitted on this key.", operation)
	}
	var in operand
	if in.value, err = decodeBinary("value", body.Value); err != nil {
		return nil, err
	}
	defer clear(in.value)
	for _, one := range []struct {
		name  string
		given *string
		into  *[]byte
	}{{"iv", body.IV, &in.iv}, {"aad", body.AAD, &in.aad}, {"tag", body.Tag, &in.tag}} {
		switch {
		case one.given == nil:
		case row.Type != typeOctHSM:
			return nil, badParameter("Properties 'iv', 'aad' and 'tag' do not apply to algorithm '%s'.", body.Algorithm)
		default:
			if *one.into, err = decodeBinary(one.name, one.given); err != nil {
				return nil, err
			}
		}
	}
	if operation == opVerify {
		digest, err := decodeBinary("digest", body.Digest)
		if err != nil {
			return nil, err
		}
		good, err := s.verify(row, body.Algorithm, digest, in.value)
		if err != nil {
			return nil, err
		}
		return verifyResult{good}, nil
	}
	out, err := s.operate(row, operation, body.Algorithm, in)
	if err != nil {
		return nil, err
	}
	defer clear(out.value)
	return operationResult{
		ID: c.keyID, Value: encodeBinary(out.value),
		IV: encodeBinary(out.iv), AAD: encodeBinary(out.aad), Tag: encodeBinary(out.tag),
	}, nil
}

func (s *Service) operate(v versionRow, operation, alg string, in operand) (out operand, err error) {
	switch {
	case operation == opSign:
		out.value, err = s.sign(v, alg, in.value)
	case v.Type == typeOctHSM:
		return s.operateAES(v, operation, alg, in)
	case operation == opEncrypt || operation == opWrap:
		out.value, err = v.encrypt(alg, in.value)
	default:
		out.value, err = s.decrypt(v, alg, in.value)
	}
	return out, err
}
