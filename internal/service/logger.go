package service

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
)

// NewLogger returns a logger for a service's standard error: one line per
// record, key=value, without a time stamp (the journal has one) and with the
// priority in front that the journal understands (sd-daemon(3): "<3>" error,
// "<4>" warning, "<6>" information, "<7>" debugging).
func NewLogger(w io.Writer) *slog.Logger {
	sink := &prefixed{w: w}
	text := slog.NewTextHandler(&sink.line, &slog.HandlerOptions{
		Level: slog.LevelInfo,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	return slog.New(journalHandler{text, sink})
}

// prefixed collects the line of one record behind its priority.
type prefixed struct {
	mu   sync.Mutex
	line bytes.Buffer
	w    io.Writer
}

type journalHandler struct {
	text slog.Handler // writes into sink.line
	sink *prefixed
}

func (h journalHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.text.Enabled(ctx, l)
}

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.sink.mu.Lock()
	defer h.sink.mu.Unlock()
	h.sink.line.Reset()
	h.sink.line.WriteString(priority(r.Level))
	if err := h.text.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.sink.w.Write(h.sink.line.Bytes())
	return err
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return journalHandler{h.text.WithAttrs(attrs), h.sink}
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	return journalHandler{h.text.WithGroup(name), h.sink}
}

func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "<3>"
	case l >= slog.LevelWarn:
		return "<4>"
	case l >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}
