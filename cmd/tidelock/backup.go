package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/cli"
)

func backupCommand(o *cli.Options) *cobra.Command {
	parent := &cobra.Command{Use: "backup", Short: "Copies of the data"}
	var c app.BackupConfig
	verify := &cobra.Command{
		Use: "verify", Short: "Say which keys a copy of the data needs, which of them are missing, and until when it opens", Args: cobra.NoArgs,
		Long: "Reads a copy of a data directory (--data), or a restored database (--store), that nobody serves, with the secrets\n" +
			"beside it or in --keys. Changes nothing, and asks no key vault: whether the key versions that it lists are enabled, it\n" +
			"does not know. Exit code 1 if something that it needs is missing or too old.",
	}
	print := o.Printed(verify)
	verify.RunE = func(cmd *cobra.Command, _ []string) error {
		c.DataDir = o.DataDir()
		r, err := app.VerifyBackup(cmd.Context(), c)
		if err != nil {
			return fmt.Errorf("backup verify: %w", err)
		}
		if err := print(r, backupRows(r)); err != nil {
			return err
		}
		if r.Missing > 0 {
			return fmt.Errorf("backup verify: %d things that this copy needs are missing or too old", r.Missing)
		}
		return nil
	}
	f := verify.Flags()
	f.StringVar(&c.Keys, "keys", "", "directory of the secrets, such as the installation's DATA.keys (default: beside the copy)")
	f.IntVar(&c.KeyRetentionDays, "key-retention-days", app.DefaultKeyRetentionDays, "what the installation has it at")
	f.StringVar(&c.Store.URL, "store", "", "look at this PostgreSQL database, postgres://user@host/database (default: the data directory)")
	f.StringVar(&c.Store.PasswordFile, "store-password-file", "", "file with the database's password")
	f.StringVar(&c.PassphraseFile, "service-key-passphrase-file", "", "file with the passphrase that the service key is sealed by")
	registerToken(verify, &c.PKCS11, "PKCS#11 library of the token that the service key is sealed in (default: it is in none)")
	parent.AddCommand(verify)
	return parent
}

func backupRows(r app.BackupReport) [][]string {
	rows := [][]string{{"STATE", r.State}}
	for _, v := range r.ServiceKeys {
		state := "missing"
		if v.Present {
			state = "present"
		}
		rows = append(rows, []string{"SERVICE KEY VERSION " + strconv.FormatUint(uint64(v.Number), 10) + " (" + v.ID + ")", state})
	}
	for _, one := range r.Relays {
		state := "opens"
		if one.OpenUntil != nil {
			state += " until " + one.OpenUntil.Format(time.DateOnly)
		}
		if one.Problem != "" {
			state = one.Problem
		}
		rows = append(rows, []string{"RELAY " + one.Resource + " UNDER " + one.KeyID, state})
	}
	return rows
}
