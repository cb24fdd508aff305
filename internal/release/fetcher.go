package release

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// metadataURL is the address that go-tuf thinks it fetches from; fetcher turns
// it into paths of a Source. Nothing resolves or dials it.
const metadataURL = "source:/metadata/"

// fetcher lets go-tuf read from a Source.
type fetcher struct{ files Source }

// DownloadFile implements go-tuf's Fetcher.
func (f fetcher) DownloadFile(url string, limit int64, _ time.Duration) ([]byte, error) {
	name, ok := strings.CutPrefix(url, metadataURL)
	if !ok || strings.ContainsAny(name, "/\\") {
		return nil, fmt.Errorf("unexpected path %q", url)
	}
	data, err := f.files.Fetch("metadata/"+name, limit)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: name}
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case int64(len(data)) > limit:
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s has more than %d bytes", name, limit)}
	}
	return data, nil
}
