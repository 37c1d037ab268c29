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
	if row.Operations, err = operations(body.Operations, spec.isRSA()); err != nil {
		return nil, err
	}
	if err := body.Attributes.apply(&row); err != nil {
		return nil, err
	}
	if err := checkTags(body.Tags); err != nil {
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
			ops, err := operations(body.Operations, row.spec().isRSA())
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

func (v versionRow) spec() keySpec { return keySpec{kind: v.Type, curve: v.Curve} }

func deleteKey(ctx context.Context, s *Service, c *call) (any, error) {
	k, row, err := s.remove(ctx, c.vault, c.target.key)
	return s.answer(c, k, row, err)
}

func getDeleted(ctx context.Context, s *Service, c *call) (any, error) {
	k, _, err := s.deletedKey(ctx, c.vault, c.target.key)
	if err != nil {
		return nil, err
	}
	row, _, err := s.versions.Get(ctx, s.versionKey(c.vault.Name, k.Name, k.newest()))
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

// operate serves the crypto operations.
func operate(ctx context.Context, s *Service, c *call) (any, error) {
	operation := c.route.permission
	k, row, _, err := s.version(ctx, c.vault, c.target.key, c.target.version)
	if err != nil {
		return nil, err
	}
	c.keyID = s.keyID(c.vault, k.Name, row.ID)
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
	if !absent(body.IV) || !absent(body.AAD) || !absent(body.Tag) {
		return nil, badParameter("Properties 'iv', 'aad' and 'tag' do not apply to algorithm '%s'.", body.Algorithm)
	}
	value, err := decodeBinary("value", body.Value)
	if err != nil {
		return nil, err
	}
	defer clear(value)
	if operation == opVerify {
		digest, err := decodeBinary("digest", body.Digest)
		if err != nil {
			return nil, err
		}
		good, err := row.verify(body.Algorithm, digest, value)
		if err != nil {
			return nil, err
		}
		return verifyResult{good}, nil
	}
	result, err := row.operate(operation, body.Algorithm, value)
	if err != nil {
		return nil, err
	}
	defer clear(result)
	return operationResult{ID: c.keyID, Value: encodeBinary(result)}, nil
}

func (v versionRow) operate(operation, alg string, value []byte) ([]byte, error) {
	switch operation {
	case opEncrypt, opWrap:
		return v.encrypt(alg, value)
	case opDecrypt, opUnwrap:
		return v.decrypt(alg, value)
	default:
		return v.sign(alg, value)
	}
}
