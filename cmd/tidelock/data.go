package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/cli"
)

func dataCommand(o *cli.Options) *cobra.Command {
	parent := &cobra.Command{Use: "data", Short: "The data of a server that does not run, or a copy of it"}
	parent.AddCommand(dataProveCommand(o))
	return parent
}

func dataProveCommand(o *cli.Options) *cobra.Command {
	var c app.InspectConfig
	command := &cobra.Command{
		Use: "prove", Short: "Look through data at rest without a server: all of it must be sealed, and in its order; say what was not shown", Args: cobra.NoArgs,
		Long: "Reads a data directory, or with --store a database, that nobody serves, and changes nothing. Needs no key: formats,\n" +
			"places, order and key ids are in the clear. With the service key beside the data, rows of management data are opened\n" +
			"too. That records and objects open takes the customers' keys: start a server and run 'tidelock cmk prove'.",
	}
	print := o.Printed(command)
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		c.DataDir = o.DataDir()
		r, err := app.Inspect(cmd.Context(), c)
		if err != nil {
			return fmt.Errorf("prove: %w", err)
		}
		if err := print(r, inspectRows(r)); err != nil {
			return err
		}
		if r.Failed > 0 {
			return fmt.Errorf("prove: %d values are not as they must be", r.Failed)
		}
		return nil
	}
	f := command.Flags()
	f.StringVar(&c.Store.URL, "store", "", "look through this PostgreSQL database, postgres://user@host/database (default: the data directory)")
	f.StringVar(&c.Store.PasswordFile, "store-password-file", "", "file with the database's password")
	f.StringVar(&c.Store.Blobs, "blobs", "", "the object store that goes with the database, as 'tidelock serve' has it")
	f.StringVar(&c.Store.BlobsCredentialsFile, "blobs-credentials-file", "", "JSON file with the object store's credentials")
	f.StringVar(&c.PassphraseFile, "service-key-passphrase-file", "", "file with the passphrase that the service key is sealed by")
	registerToken(command, &c.PKCS11, "PKCS#11 library of the token that the service key is sealed in (default: it is in none)")
	f.StringArrayVar(&c.Canaries, "canary", nil, "a text that clients wrote: search all of it for this text (may be repeated)")
	return command
}

func inspectRows(r app.InspectReport) [][]string {
	n := strconv.Itoa
	rows := [][]string{
		{"STATE", r.State}, {"ROWS", n(r.Rows)}, {"DOCUMENT KEYS", n(r.DocumentKeys)}, {"DOCUMENTS", n(r.Documents)}, {"SEGMENT HEADERS", n(r.Headers)},
		{"RECORDS", n(r.Records)}, {"OBJECTS", n(r.Objects)}, {"LOOSE BLOBS", n(r.Loose)}, {"SEALED BYTES", strconv.FormatInt(r.Bytes, 10)},
		{"SHREDDED DOCUMENTS", n(r.Shredded)}, {"FILES SEARCHED", n(r.Files)},
	}
	counts := func(label string, of map[string]int) {
		for _, id := range slices.Sorted(maps.Keys(of)) {
			rows = append(rows, []string{label, id + " (" + n(of[id]) + ")"})
		}
	}
	counts("OF RESOURCE", r.Resources)
	counts("UNDER KEY VERSION", r.KeyIDs)
	counts("DOCUMENT KEYS UNDER ROOT KEY", r.Epochs)
	for _, part := range []struct {
		label string
		lines []string
	}{{"SHOWN", r.Shown}, {"NOT SHOWN", r.NotShown}, {"FAILURE", r.Failures}} {
		for _, line := range part.lines {
			rows = append(rows, []string{part.label, line})
		}
	}
	return rows
}
