package main

import "testing"

func TestExitCodes(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want int
	}{
		{"no such noun", []string{"cofnig"}, exitUsage},
		{"no such flag", []string{"config", "check", "--jason", "x"}, exitUsage},
		{"no file named", []string{"config", "check"}, exitUsage},
		{"flags missing", []string{"config", "sign", "x.yaml"}, exitUsage},
		{"no such file", []string{"config", "check", "testdata/none.yaml"}, exitFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if code, err := run(t.Context(), tt.args); code != tt.want || err == nil {
				t.Errorf("run = %d, %v; want %d and an error", code, err, tt.want)
			}
		})
	}
	if code, err := run(t.Context(), []string{"help", "config"}); code != exitDone || err != nil {
		t.Errorf("help = %d, %v", code, err)
	}
}
