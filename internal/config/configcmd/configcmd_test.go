package configcmd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pforte": func() {
		root := &cobra.Command{Use: "pforte", SilenceUsage: true, SilenceErrors: true}
		root.AddCommand(Command())
		if err := root.Execute(); err != nil {
			fmt.Fprintln(os.Stderr, "pforte:", err)
			os.Exit(1)
		}
	}})
}

func TestScripts(t *testing.T) {
	example, err := os.ReadFile("../testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			return os.WriteFile(filepath.Join(env.WorkDir, "example.yaml"), example, 0o644)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// edit FROM TO OLD NEW copies a file with one text replaced.
			"edit": edit,
			// keypair NAME [rsa2048|p256] writes NAME-key.pem and NAME.pem.
			"keypair": keypair,
		},
	})
}
