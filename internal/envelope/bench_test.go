package envelope

import (
	"fmt"
	"testing"
)

var benchmarkSizes = []int{256, 1 << 10, 64 << 10, 1 << 20}

func eachSize(b *testing.B, run func(b *testing.B, plaintext []byte)) {
	for _, n := range benchmarkSizes {
		b.Run(fmt.Sprintf("%dB", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			run(b, make([]byte, n))
		})
	}
}

func BenchmarkSegmentSeal(b *testing.B) {
	dk := NewDocumentKey()
	eachSize(b, func(b *testing.B, plaintext []byte) {
		seg := must(NewSegment(dk, testSegment))
		for b.Loop() {
			_, err := seg.Seal(seg.nextSeq, seg.nextSeq, plaintext)
			if err == ErrSegmentFull { //nolint:errorlint // the hot path of a benchmark
				seg = must(NewSegment(dk, testSegment))
			} else if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkSegmentOpen(b *testing.B) {
	dk := NewDocumentKey()
	eachSize(b, func(b *testing.B, plaintext []byte) {
		seg := must(NewSegment(dk, testSegment))
		rec := must(seg.Seal(1, 1, plaintext))
		start := *must(OpenSegment(dk, testPlace, seg.Header()))
		r := start
		for b.Loop() {
			if _, err := r.Open(rec); err != nil {
				b.Fatal(err)
			}
			r = start
		}
	})
}

func BenchmarkSealObject(b *testing.B) {
	dk := NewDocumentKey()
	eachSize(b, func(b *testing.B, plaintext []byte) {
		for b.Loop() {
			must(dk.SealObject(testPlace, KindObject, Name{}, plaintext))
		}
	})
}

func BenchmarkOpenObject(b *testing.B) {
	dk := NewDocumentKey()
	eachSize(b, func(b *testing.B, plaintext []byte) {
		s := must(dk.SealObject(testPlace, KindObject, Name{}, plaintext))
		for b.Loop() {
			must(dk.OpenObject(testPlace, KindObject, Name{}, s))
		}
	})
}

func BenchmarkSealRow(b *testing.B) {
	sk, row := NewServiceKey(), make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		must(sk.SealRow("documents", Name{}, Name{}, row))
	}
}

func BenchmarkName(b *testing.B) {
	sk := NewServiceKey()
	b.ReportAllocs()
	for b.Loop() {
		sk.Name("documents", "9f0c5f0e-6a2b-4a55-8f44-0f6a3a1f4a52")
	}
}

func BenchmarkRewrapDocumentKey(b *testing.B) {
	before, after, dk := NewRootKey(), NewRootKey(), NewDocumentKey()
	wrapped := must(before.WrapDocumentKey(dk, testPlace))
	b.ReportAllocs()
	for b.Loop() {
		k, at, err := before.UnwrapDocumentKey(wrapped, testPlace.Resource, testPlace.Document)
		if err != nil {
			b.Fatal(err)
		}
		must(after.WrapDocumentKey(k, at))
	}
}
