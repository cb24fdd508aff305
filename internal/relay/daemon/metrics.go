package daemon

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// metrics is how the relay stands, in Prometheus' exposition format. It names
// tenants and next hops, and no message and no address.
func (d *Daemon) metrics() (manage.Metrics, error) {
	stats, err := d.queue.Stats()
	if err != nil {
		return manage.Metrics{}, err
	}
	r := prometheus.NewRegistry()
	if err := r.Register(&collector{d, stats}); err != nil {
		return manage.Metrics{}, fmt.Errorf("metrics: %w", err)
	}
	families, err := r.Gather()
	if err != nil {
		return manage.Metrics{}, fmt.Errorf("metrics: %w", err)
	}
	var b strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return manage.Metrics{}, fmt.Errorf("metrics: %w", err)
		}
	}
	return manage.Metrics{Text: b.String()}, nil
}

// collector reads the relay once.
type collector struct {
	d     *Daemon
	stats queue.Stats
}

// Describe implements prometheus.Collector: what there is depends on the tenants.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	c.waiting(to)
	c.store(to)
	c.mail(to)
	c.state(to)
}

// labels are names and values in turns.
type labels []string

func gauge(to chan<- prometheus.Metric, name, help string, v float64, l ...string) {
	send(to, prometheus.GaugeValue, name, help, v, l)
}

func counter(to chan<- prometheus.Metric, name, help string, v float64, l ...string) {
	send(to, prometheus.CounterValue, name, help, v, l)
}

func send(to chan<- prometheus.Metric, kind prometheus.ValueType, name, help string, v float64, l labels) {
	names, values := l.split()
	to <- prometheus.MustNewConstMetric(prometheus.NewDesc("pforte_"+name, help, names, nil), kind, v, values...)
}

func (l labels) split() (names, values []string) {
	for i := 0; i+1 < len(l); i += 2 {
		names, values = append(names, l[i]), append(values, strings.ToValidUTF8(l[i+1], "?"))
	}
	return names, values
}

// waiting is the mail in the queue.
func (c *collector) waiting(to chan<- prometheus.Metric) {
	for tenant, n := range c.stats.Tenants {
		gauge(to, "queue_messages", "Messages that wait or are being tried.", float64(n.Messages), "tenant", tenant)
		gauge(to, "queue_recipients", "Recipients of these messages.", float64(n.Recipients), "tenant", tenant)
		gauge(to, "queue_bytes", "Bodies in the queue, with those of dead letters.", float64(n.Bytes), "tenant", tenant)
		gauge(to, "queue_held_messages", "Messages on hold.", float64(n.Held), "tenant", tenant)
		gauge(to, "queue_dead_messages", "Messages that could not be delivered and nobody could be told of.", float64(n.Dead), "tenant", tenant)
	}
	age := 0.0
	if !c.stats.Oldest.IsZero() {
		age = time.Since(c.stats.Oldest).Seconds()
	}
	gauge(to, "queue_oldest_seconds", "Age of the oldest message; 0 if there is none.", age)
	gauge(to, "queue_quarantined_records", "Damaged records that were set aside.", float64(c.stats.Quarantined))
}

// store is what the queue does to the disk.
func (c *collector) store(to chan<- prometheus.Metric) {
	m := c.d.queue.Metrics()
	counter(to, "queue_commits_total", "Messages taken in charge.", float64(m.Commits))
	counter(to, "queue_body_bytes_total", "Bodies taken in charge.", float64(m.Bytes))
	counter(to, "queue_batches_total", "Durable changes; those that share an fsync are a group.", float64(m.Batches))
	counter(to, "queue_syncs_total", "Fsyncs of the queue's log.", float64(m.Syncs))
	gauge(to, "queue_reserved_bytes", "Disk space that open transactions keep.", float64(m.Reserved))
	histogram(to, "queue_sync_seconds", "How long fsyncs of the log took.", m.SyncTime)
	histogram(to, "queue_file_sync_seconds", "How long fsyncs of large bodies took.", m.FileTime)
}

func histogram(to chan<- prometheus.Metric, name, help string, h queue.Histogram) {
	buckets, sum := map[float64]uint64{}, uint64(0)
	for i, bound := range queue.HistogramBounds() {
		sum += h.Buckets[i]
		buckets[bound.Seconds()] = sum
	}
	to <- prometheus.MustNewConstHistogram(prometheus.NewDesc("pforte_"+name, help, nil, nil), h.Count, h.Sum.Seconds(), buckets)
}

// mail is what came and went.
func (c *collector) mail(to chan<- prometheus.Metric) {
	for _, n := range c.d.relay.Counts() {
		counter(to, "mail_total", "What happened: accepted and dead count messages, the others recipients.", float64(n.N),
			"tenant", n.Tenant, "direction", string(n.Direction), "event", n.What)
	}
	for _, dest := range c.d.relay.Destinations() {
		gauge(to, "nexthop_down", "1 while no attempt is made at a next hop, because it does not answer.", flag(dest.Down), "nexthop", dest.Name)
		gauge(to, "nexthop_sending", "Attempts that run.", float64(dest.Sending), "nexthop", dest.Name)
		gauge(to, "nexthop_places", "Attempts that may run at once; adapts itself.", float64(dest.Places), "nexthop", dest.Name)
	}
	c.d.mu.Lock()
	servers := c.d.servers
	c.d.mu.Unlock()
	for i, name := range []string{"tenant", "provider"}[:len(servers)] {
		gauge(to, "smtp_connections", "Open connections.", float64(servers[i].Connections()), "side", name)
	}
}

// state is the health as numbers.
func (c *collector) state(to chan<- prometheus.Metric) {
	ends := c.d.ends()
	for name, at := range map[string]time.Time{"tenant-server": ends.Server, "provider-client": ends.Client} {
		if !at.IsZero() {
			gauge(to, "certificate_expiry_timestamp_seconds", "When a certificate of the relay ends.", float64(at.Unix()), "purpose", name)
		}
	}
	gauge(to, "configuration_serial", "Serial of the configuration in force.", float64(c.d.live.Snapshot().Serial))
	gauge(to, "relay_start_timestamp_seconds", "When the relay started.", float64(c.d.started.Unix()))
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
