// Package rawjson takes JSON apart without decoding it: the elements of arrays and the
// members of objects, as they stand in the text. It is for messages whose contents are
// passed on byte for byte, of which there are many a second.
//
// It checks nothing. Its input must be known to be valid JSON, by jsontext or because a
// part of what was; given anything else it yields parts that mean nothing, but ends and
// does not panic. Names are compared as they stand, so an escaped one is another name.
package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"unicode/utf8"
)

// Elements yields the elements of an array, without surrounding space. A value that is
// no array has none.
func Elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := enter(array, '['); i < len(array) && array[i] != ']'; i = next(array, i) {
			end := skipValue(array, i)
			if !yield(array[i:end:end]) {
				return
			}
			i = end
		}
	}
}

// Members yields the members of an object: the name with its quotes, and the value. A
// value that is no object has none. A name may come twice.
func Members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for i := enter(object, '{'); i < len(object) && object[i] != '}'; i = next(object, i) {
			name := object[i:skipValue(object, i)]
			i = skipSpace(object, i+len(name))
			i = skipSpace(object, min(i+1, len(object))) // the colon
			end := skipValue(object, i)
			if !yield(name, object[i:end:end]) {
				return
			}
			i = end
		}
	}
}

// Kind is the first byte of a value after space: '{', '[', '"', 't', 'f', 'n', '-' or a
// digit; 0 if there is none.
func Kind(value []byte) byte {
	if i := skipSpace(value, 0); i < len(value) {
		return value[i]
	}
	return 0
}

// ErrNoString is the error of String for another value.
var ErrNoString = errors.New("rawjson: not a string")

// String decodes a string. What is no UTF-8 in it becomes U+FFFD, as in encoding/json.
func String(value []byte) (string, error) {
	if Kind(value) != '"' {
		return "", ErrNoString
	}
	if n := len(value); value[0] == '"' && n >= 2 && value[n-1] == '"' && bytes.IndexByte(value, '\\') < 0 && utf8.Valid(value) {
		return string(value[1 : n-1]), nil
	}
	var s string
	err := json.Unmarshal(value, &s)
	return s, err
}

// enter returns where the first part of b is, which begins with open; len(b) if it does not.
func enter(b []byte, open byte) int {
	i := skipSpace(b, 0)
	if i == len(b) || b[i] != open {
		return len(b)
	}
	return skipSpace(b, i+1)
}

// next returns where the part after the one that ends at i begins, or the end of them.
func next(b []byte, i int) int {
	if i = skipSpace(b, i); i < len(b) && b[i] == ',' {
		i = skipSpace(b, i+1)
	}
	return i
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipValue returns where the value at i ends. It moves on by one byte at least, unless
// b is at its end.
func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i = skipString(b, i)
		case '[', '{':
			depth++
			i++
		case ']', '}':
			depth--
			i++
		case ',', ':', ' ', '\n', '\r', '\t':
			i++
		default: // a number or a word
			for i++; i < len(b) && !ends(b[i]); i++ {
			}
		}
		if depth <= 0 {
			break
		}
	}
	return i
}

// ends says whether c cannot be part of a number or a word.
func ends(c byte) bool {
	switch c {
	case ',', ':', ']', '}', '[', '{', '"', ' ', '\n', '\r', '\t':
		return true
	}
	return false
}

// skipString returns where the string at i ends.
func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return len(b)
}
