package limit_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// Keys of the subject user=bob, path=/v1/carts.
const (
	digest     = "rl:{aaaaaaaaaaaaaaaaaaaa_-}:"
	apiKey     = digest + "shop/api"
	logKey     = digest + "shop/log"
	whenKey    = digest + "shop/when"
	costKey    = digest + "shop/cost"
	slotsKey   = digest + "shop/slots"
	doorKey    = digest + "shop/door"
	balanceKey = digest + "shop/balance"
)

// refusing gives policies of all kinds that a call may name.
func refusing() []policy.RateLimit {
	api := one("shop/api", fixedWindow(10, time.Minute))
	api.Descriptors = []policy.Descriptor{{Key: "user"}, {Key: "path", Value: "/v1/*"}}
	api.Overrides = []policy.Override{{Values: []string{"root", ""}, Limits: []policy.Limit{fixedWindow(20, time.Minute)}}}
	when := one("shop/when", fixedWindow(10, time.Minute))
	when.When = []string{"true"}
	cost := one("shop/cost", fixedWindow(10, time.Minute))
	cost.CostExpression = "1"
	slots := one("shop/slots", concurrency(10, time.Minute))
	slots.Descriptors = []policy.Descriptor{{Key: "user"}}
	doorSlots := one("shop/door", concurrency(10, time.Minute))
	doorSlots.When = []string{"true"}
	return []policy.RateLimit{
		api, when, cost, slots, doorSlots, one("shop/log", slidingLog(10, time.Minute)), one("shop/balance", balance(10)),
	}
}

func TestRefusalsNameWhatIsWrong(t *testing.T) {
	long := strings.Repeat("x", 257)
	tests := map[string]struct {
		function string
		keys     []string
		args     []any
		want     string
		// functionsOnly is for what scripts do not have: names of policies.
		functionsOnly bool
		// exact is for what could go on otherwise.
		exact bool
	}{
		"unknown policy":             {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/none", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_NOPOLICY shop/none is not a policy of this store", functionsOnly: true},
		"no policy at all":           {function: "penstock_limit", keys: []string{apiKey}, want: "PENSTOCK_NOPOLICY", functionsOnly: true},
		"a policy with breaks":       {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/\r\n+OK\x00é", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_NOPOLICY shop/??+OK??? is not", functionsOnly: true},
		"a document that is none":    {function: "penstock_limit", keys: []string{apiKey}, args: []any{"{", 1, ""}, want: "PENSTOCK_"},
		"a document of another kind": {function: "penstock_limit", keys: []string{apiKey}, args: []any{`{"name":"shop/api","limits":[{"name":"a","algorithm":"Abacus","windowMs":1000,"requests":1}]}`, 1, ""}, want: "PENSTOCK_"},

		"no key":                     {function: "penstock_limit", args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: `PENSTOCK_BADKEY key 1 is "": expected rl:{<22 base64url characters>}:shop/api`},
		"no keys for many":           {function: "penstock_limit_many", args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"another policy's key":       {function: "penstock_limit", keys: []string{digest + "shop/log"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1 is \"" + digest + "shop/log\": expected rl:{<22 base64url characters>}:shop/api"},
		"a key of the same length":   {function: "penstock_limit", keys: []string{digest + "shop/apj"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"a short digest":             {function: "penstock_limit", keys: []string{"rl:{aaaa}:shop/api"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"a digest with a brace":      {function: "penstock_limit", keys: []string{"rl:{aaaaaaaaaaa}aaaaaaaaaa}:shop/api"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"a digest with a plus":       {function: "penstock_limit", keys: []string{"rl:{aaaaaaaaaaaaaaaaaaaaa+}:shop/api"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"another prefix":             {function: "penstock_limit", keys: []string{"lr:{aaaaaaaaaaaaaaaaaaaa_-}:shop/api"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"somebody's key":             {function: "penstock_limit", keys: []string{"user:{1}\n"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: `PENSTOCK_BADKEY key 1 is "user:{1}?"`},
		"a second key":               {function: "penstock_limit", keys: []string{apiKey, "user:1"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: `PENSTOCK_BADKEY key 2 is "user:1"`},
		"the same key twice":         {function: "penstock_limit", keys: []string{apiKey, apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 2"},
		"a log where there is none":  {function: "penstock_limit", keys: []string{apiKey, apiKey + ":default"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 2"},
		"a log of another name":      {function: "penstock_limit", keys: []string{digest + "shop/log", digest + "shop/log:none"}, args: []any{"shop/log", 1, ""}, want: "PENSTOCK_BADKEY key 2"},
		"another subject's log":      {function: "penstock_limit", keys: []string{digest + "shop/log", "rl:{bbbbbbbbbbbbbbbbbbbbbb}:shop/log:default"}, args: []any{"shop/log", 1, ""}, want: "PENSTOCK_BADKEY key 2"},
		"a wrong second key of many": {function: "penstock_limit_many", keys: []string{apiKey, apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "shop/log", 1, ""}, want: "PENSTOCK_BADKEY key 2 is \"" + apiKey + "\": expected rl:{<22 base64url characters>}:shop/log"},

		"no cost":                {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api"}, want: `PENSTOCK_BADARG cost is "": want an integer from 0 to 9007199254740991`},
		"a negative cost":        {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", -1, "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is "-1"`},
		"a broken cost":          {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "1.5", "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is "1.5"`},
		"an exponent":            {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "1e3", "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is "1e3"`},
		"a hexadecimal cost":     {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "0x10", "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is "0x10"`},
		"a cost with blanks":     {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", " 1", "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is " 1"`},
		"a cost of 2^53":         {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "9007199254740992", "", "bob", "/v1/a"}, want: "PENSTOCK_BADARG cost"},
		"a cost of 2^53+1":       {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "9007199254740993", "", "bob", "/v1/a"}, want: "PENSTOCK_BADARG cost"},
		"a cost of many digits":  {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", strings.Repeat("9", 400), "", "bob", "/v1/a"}, want: "PENSTOCK_BADARG cost is \"" + strings.Repeat("9", 317) + "...\""},
		"a value too few":        {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob"}, want: "PENSTOCK_BADARG value 2 (path) is missing: shop/api takes 2 values"},
		"a value too many":       {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "x"}, want: "PENSTOCK_BADARG 1 arguments too many: shop/api takes 2 values"},
		"too much behind many":   {function: "penstock_limit_many", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "shop/log", 1, ""}, want: "PENSTOCK_BADARG 3 arguments too many"},
		"a long value":           {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "", long, "/v1/a"}, want: "PENSTOCK_BADARG value 1 (user) has 257 bytes: want at most 256"},
		"another value":          {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob", "/v2/a"}, want: `PENSTOCK_BADARG value 2 (path) is "/v2/a": shop/api is for "/v1/*"`},
		"the charge is numbered": {function: "penstock_limit_many", keys: []string{apiKey, digest + "shop/log"}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "shop/log", "x", ""}, want: `PENSTOCK_BADARG charge 2: cost is "x"`},
		"a peek is checked too":  {function: "penstock_limit_peek", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob", "/v2/a"}, want: "PENSTOCK_BADARG value 2"},

		"no id":                           {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1}, want: "PENSTOCK_BADARG id: want an empty argument, or 1 to 128 visible ASCII characters"},
		"a long id":                       {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, long[:129], "bob", "/v1/a"}, want: "PENSTOCK_BADARG id: want"},
		"an id with a blank":              {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "a 1", "bob", "/v1/a"}, want: "PENSTOCK_BADARG id: want"},
		"an id with a break":              {function: "penstock_limit_peek", keys: []string{apiKey}, args: []any{"shop/api", 1, "a\n", "bob", "/v1/a"}, want: "PENSTOCK_BADARG id: want"},
		"an id with other letters":        {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "é", "bob", "/v1/a"}, want: "PENSTOCK_BADARG id: want"},
		"an id twice for one key":         {function: "penstock_limit_many", keys: []string{apiKey, apiKey}, args: []any{"shop/api", 1, "a", "bob", "/v1/a", "shop/api", 1, "a", "bob", "/v1/a"}, want: "PENSTOCK_BADARG charge 2: id is the same as before for the same key"},
		"other limits for one key":        {function: "penstock_limit_many", keys: []string{apiKey, apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "shop/api", 1, "", "root", "/v1/a"}, want: "PENSTOCK_BADARG charge 2: policy is not the same as before for the same key, or the values have other limits"},
		"an unknown policy behind others": {function: "penstock_limit_many", keys: []string{apiKey, apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "shop/none", 1, ""}, want: "PENSTOCK_NOPOLICY shop/none", functionsOnly: true},
		"a log of another name of many":   {function: "penstock_limit_many", keys: []string{logKey, logKey + ":none"}, args: []any{"shop/log", 1, ""}, want: "PENSTOCK_BADKEY key 2"},
		"no cost where the policy's":      {function: "penstock_limit", keys: []string{costKey}, args: []any{"shop/cost", "", "", "door"}, want: `PENSTOCK_BADARG cost is "": want an integer from 0 to 9007199254740991`, exact: true},
		"a cost where there is a default": {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "x", "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is "x": want an integer from 0 to 9007199254740991, or nothing for the policy's`, exact: true},

		"conditions without a door":     {function: "penstock_limit", keys: []string{whenKey}, args: []any{"shop/when", 1, ""}, want: "PENSTOCK_NEEDS_DOOR shop/when has expressions (when or cost) that only penstockd evaluates: ask one of its doors"},
		"a cost without a door":         {function: "penstock_limit", keys: []string{costKey}, args: []any{"shop/cost", 1, ""}, want: "PENSTOCK_NEEDS_DOOR shop/cost"},
		"an empty cost without a door":  {function: "penstock_limit", keys: []string{costKey}, args: []any{"shop/cost", "", ""}, want: "PENSTOCK_NEEDS_DOOR shop/cost"},
		"one of many, of an empty cost": {function: "penstock_limit_many", keys: []string{apiKey, costKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "shop/cost", "", ""}, want: "PENSTOCK_NEEDS_DOOR shop/cost"},
		"a peek without a door":         {function: "penstock_limit_peek", keys: []string{whenKey}, args: []any{"shop/when", 1, ""}, want: "PENSTOCK_NEEDS_DOOR shop/when"},
		"another word than door":        {function: "penstock_limit", keys: []string{whenKey}, args: []any{"shop/when", 1, "", "Door"}, want: "PENSTOCK_NEEDS_DOOR shop/when"},
		"one of many without a door":    {function: "penstock_limit_many", keys: []string{apiKey, whenKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "shop/when", 1, ""}, want: "PENSTOCK_NEEDS_DOOR shop/when"},
		"the first of many without":     {function: "penstock_limit_many", keys: []string{whenKey, apiKey}, args: []any{"shop/when", 1, "", "shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_NEEDS_DOOR shop/when"},
		"a slot without a door":         {function: "penstock_slot_acquire", keys: []string{doorKey}, args: []any{"shop/door", "s", ""}, want: "PENSTOCK_NEEDS_DOOR shop/door"},
		"a door where there is none":    {function: "penstock_limit", keys: []string{logKey}, args: []any{"shop/log", 1, "", "door"}, want: "PENSTOCK_BADARG 1 arguments too many: shop/log takes 0 values"},
		"more behind a door":            {function: "penstock_limit", keys: []string{whenKey}, args: []any{"shop/when", 1, "", "door", "x"}, want: "PENSTOCK_BADARG 1 arguments too many: shop/when"},
		"more behind the door of many":  {function: "penstock_limit_many", keys: []string{whenKey}, args: []any{"shop/when", 1, "", "door", "x", "y"}, want: "PENSTOCK_BADARG 2 arguments too many: shop/when"},
		"a refund needs no door":        {function: "penstock_limit_refund", keys: []string{whenKey}, args: []any{"shop/when", 1, "", "door"}, want: "PENSTOCK_BADARG 1 arguments too many: shop/when"},
		"a refund of an unknown cost":   {function: "penstock_limit_refund", keys: []string{costKey}, args: []any{"shop/cost", "", ""}, want: "PENSTOCK_BADARG cost is empty, and only penstockd can tell what a request of shop/cost costs"},
		"a peek at an unknown policy":   {function: "penstock_limit_peek", keys: []string{apiKey}, args: []any{"shop/none", 1, ""}, want: "PENSTOCK_NOPOLICY shop/none", functionsOnly: true},
		"a refund on an unknown policy": {function: "penstock_limit_refund", keys: []string{apiKey}, args: []any{"shop/none", 1, ""}, want: "PENSTOCK_NOPOLICY shop/none", functionsOnly: true},
		"a refund on another key":       {function: "penstock_limit_refund", keys: []string{logKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"a refund of a broken cost":     {function: "penstock_limit_refund", keys: []string{apiKey}, args: []any{"shop/api", "-1", "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is "-1"`},
		"a refund with too little":      {function: "penstock_limit_refund", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob"}, want: "PENSTOCK_BADARG value 2 (path) is missing"},
		"a refund with too much":        {function: "penstock_limit_refund", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "x"}, want: "PENSTOCK_BADARG 1 arguments too many"},
		"a refund of a slot":            {function: "penstock_limit_refund", keys: []string{slotsKey}, args: []any{"shop/slots", 1, "", "bob"}, want: "PENSTOCK_BADARG policy shop/slots is a Concurrency: call penstock_slot_acquire and penstock_slot_release"},

		"a credit on an unknown policy": {function: "penstock_limit_credit", keys: []string{apiKey}, args: []any{"shop/none", 1, ""}, want: "PENSTOCK_NOPOLICY shop/none", functionsOnly: true},
		"a credit on another key":       {function: "penstock_limit_credit", keys: []string{apiKey}, args: []any{"shop/balance", 1, ""}, want: "PENSTOCK_BADKEY key 1"},
		"a credit without balance":      {function: "penstock_limit_credit", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADARG policy shop/api has no limit of algorithm Balance to credit"},
		"a credit of nothing":           {function: "penstock_limit_credit", keys: []string{balanceKey}, args: []any{"shop/balance", 0, ""}, want: `PENSTOCK_BADARG cost is "0": want how much to credit, from 1 to 9007199254740991`},
		"a credit that does not say":    {function: "penstock_limit_credit", keys: []string{balanceKey}, args: []any{"shop/balance", "", ""}, want: `PENSTOCK_BADARG cost is "": want how much to credit`},
		"a credit of less":              {function: "penstock_limit_credit", keys: []string{balanceKey}, args: []any{"shop/balance", -5, ""}, want: `PENSTOCK_BADARG cost is "-5"`},
		"a credit of too much":          {function: "penstock_limit_credit", keys: []string{balanceKey}, args: []any{"shop/balance", "9007199254740991", ""}, want: "PENSTOCK_BADARG cost: the balance would be more than 9007199254740991"},
		"a credit with a bad id":        {function: "penstock_limit_credit", keys: []string{balanceKey}, args: []any{"shop/balance", 1, " "}, want: "PENSTOCK_BADARG id: want"},
		"a credit with more":            {function: "penstock_limit_credit", keys: []string{balanceKey}, args: []any{"shop/balance", 1, "", "door"}, want: "PENSTOCK_BADARG 1 arguments too many"},
		"a credit of slots":             {function: "penstock_limit_credit", keys: []string{slotsKey}, args: []any{"shop/slots", 1, "", "bob"}, want: "PENSTOCK_BADARG policy shop/slots is a Concurrency"},

		"a reset on an unknown policy": {function: "penstock_limit_reset", keys: []string{apiKey}, args: []any{"shop/none", "", ""}, want: "PENSTOCK_NOPOLICY shop/none", functionsOnly: true},
		"a reset of another key":       {function: "penstock_limit_reset", keys: []string{apiKey}, args: []any{"shop/log", "", ""}, want: "PENSTOCK_BADKEY key 1"},
		"a reset with a cost":          {function: "penstock_limit_reset", keys: []string{logKey}, args: []any{"shop/log", 1, ""}, want: "PENSTOCK_BADARG cost and id have to be there and empty"},
		"a reset with an id":           {function: "penstock_limit_reset", keys: []string{logKey}, args: []any{"shop/log", "", "a"}, want: "PENSTOCK_BADARG cost and id have to be there and empty"},
		"a reset with a value too few": {function: "penstock_limit_reset", keys: []string{apiKey}, args: []any{"shop/api", "", "", "bob"}, want: "PENSTOCK_BADARG value 2 (path) is missing"},
		"a reset with more":            {function: "penstock_limit_reset", keys: []string{logKey}, args: []any{"shop/log", "", "", "x"}, want: "PENSTOCK_BADARG 1 arguments too many"},

		"a charge on slots":               {function: "penstock_limit", keys: []string{slotsKey}, args: []any{"shop/slots", 1, "", "bob"}, want: "PENSTOCK_BADARG policy shop/slots is a Concurrency: call penstock_slot_acquire and penstock_slot_release"},
		"a peek at slots":                 {function: "penstock_limit_peek", keys: []string{slotsKey}, args: []any{"shop/slots", 1, "", "bob"}, want: "PENSTOCK_BADARG policy shop/slots is a Concurrency"},
		"a charge on slots beside others": {function: "penstock_limit_many", keys: []string{logKey, slotsKey}, args: []any{"shop/log", 1, "", "shop/slots", 1, "", "bob"}, want: "PENSTOCK_BADARG policy shop/slots is a Concurrency"},
		"a slot of a window":              {function: "penstock_slot_acquire", keys: []string{logKey}, args: []any{"shop/log", "s", ""}, want: "PENSTOCK_BADARG policy shop/log has no slots: want one of algorithm Concurrency"},
		"the release of a window's":       {function: "penstock_slot_release", keys: []string{logKey}, args: []any{"shop/log", "s"}, want: "PENSTOCK_BADARG policy shop/log has no slots"},
		"a slot of an unknown policy":     {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/none", "s", ""}, want: "PENSTOCK_NOPOLICY shop/none", functionsOnly: true},
		"a release on an unknown policy":  {function: "penstock_slot_release", keys: []string{slotsKey}, args: []any{"shop/none", "s"}, want: "PENSTOCK_NOPOLICY shop/none", functionsOnly: true},
		"a slot without key":              {function: "penstock_slot_acquire", args: []any{"shop/slots", "s", "", "bob"}, want: "PENSTOCK_BADKEY key 1"},
		"a slot at another key":           {function: "penstock_slot_acquire", keys: []string{slotsKey, slotsKey + ":other"}, args: []any{"shop/slots", "s", "", "bob"}, want: "PENSTOCK_BADKEY key 2"},
		"a slot at a key too many":        {function: "penstock_slot_acquire", keys: []string{slotsKey, slotsKey + ":default", logKey}, args: []any{"shop/slots", "s", "", "bob"}, want: "PENSTOCK_BADKEY key 3"},
		"a slot without id":               {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots"}, want: "PENSTOCK_BADARG slot id: want 1 to 128 visible ASCII characters"},
		"a slot of an empty id":           {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots", "", "", "bob"}, want: "PENSTOCK_BADARG slot id: want"},
		"a slot of a long id":             {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots", long[:129], "", "bob"}, want: "PENSTOCK_BADARG slot id: want"},
		"the release of a broken id":      {function: "penstock_slot_release", keys: []string{slotsKey}, args: []any{"shop/slots", "a\tb", "bob"}, want: "PENSTOCK_BADARG slot id: want"},
		"a slot without ttl":              {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots", "s"}, want: `PENSTOCK_BADARG ttl is "": want milliseconds, at least 1, or nothing for the policy's`},
		"a slot for 0 ms":                 {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots", "s", 0, "bob"}, want: `PENSTOCK_BADARG ttl is "0"`},
		"a slot for less":                 {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots", "s", -1, "bob"}, want: `PENSTOCK_BADARG ttl is "-1"`},
		"a slot for a fraction":           {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots", "s", "1.5", "bob"}, want: `PENSTOCK_BADARG ttl is "1.5"`},
		"a slot for 2^53 ms":              {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots", "s", "9007199254740992", "bob"}, want: `PENSTOCK_BADARG ttl is "9007199254740992"`},
		"a slot with a value too few":     {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots", "s", ""}, want: "PENSTOCK_BADARG value 1 (user) is missing: shop/slots takes 1 values"},
		"a slot with a long value":        {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots", "s", "", long}, want: "PENSTOCK_BADARG value 1 (user) has 257 bytes"},
		"a slot with a value too many":    {function: "penstock_slot_acquire", keys: []string{slotsKey}, args: []any{"shop/slots", "s", "", "bob", "x"}, want: "PENSTOCK_BADARG 1 arguments too many: shop/slots takes 1 values"},
		"a slot with more behind a door":  {function: "penstock_slot_acquire", keys: []string{doorKey}, args: []any{"shop/door", "s", "", "door", "x"}, want: "PENSTOCK_BADARG 1 arguments too many: shop/door"},
		"a release with a value too few":  {function: "penstock_slot_release", keys: []string{slotsKey}, args: []any{"shop/slots", "s"}, want: "PENSTOCK_BADARG value 1 (user) is missing"},
		"a release with a ttl":            {function: "penstock_slot_release", keys: []string{slotsKey}, args: []any{"shop/slots", "s", "bob", "1000"}, want: "PENSTOCK_BADARG 1 arguments too many"},
		"a release through a door":        {function: "penstock_slot_release", keys: []string{doorKey}, args: []any{"shop/door", "s", "door"}, want: "PENSTOCK_BADARG 1 arguments too many"},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				if test.functionsOnly && mode == library.ModeScripts {
					test.want = "PENSTOCK_BADARG policy is not the JSON document of a RateLimit"
				}
				w := startOn(t, server, mode, false, refusing()...)
				reply, err := w.raw(test.function, test.keys, test.args...)
				if err == nil || !strings.HasPrefix(err.Error(), test.want) || test.exact && err.Error() != test.want {
					t.Errorf("got %v, %v, want %s", reply, err, test.want)
				}
				if err != nil && redisops.Classify(err) != redisops.Policy {
					t.Errorf("class %v of %v, want %v", redisops.Classify(err), err, redisops.Policy)
				}
				if dump := w.dump(); dump != "" {
					t.Errorf("wrote %s", dump)
				}
			})
		})
	}
}

func TestDocumentedCallsAreAnswered(t *testing.T) {
	tests := map[string]struct {
		function string
		keys     []string
		args     []any
	}{
		"a counter":                   {"penstock_limit", []string{apiKey}, []any{"shop/api", 1, "", "bob", "/v1/carts"}},
		"a counter with its log":      {"penstock_limit", []string{logKey, logKey + ":default"}, []any{"shop/log", 1, ""}},
		"leading zeros":               {"penstock_limit", []string{apiKey}, []any{"shop/api", "0001", "", "bob", "/v1/carts"}},
		"a peek":                      {"penstock_limit_peek", []string{logKey, logKey + ":default"}, []any{"shop/log", 1, ""}},
		"many of one":                 {"penstock_limit_many", []string{logKey}, []any{"shop/log", 1, ""}},
		"the policy's cost":           {"penstock_limit", []string{apiKey}, []any{"shop/api", "", "", "bob", "/v1/carts"}},
		"through a door":              {"penstock_limit", []string{whenKey}, []any{"shop/when", 1, "", "door"}},
		"a peek through a door":       {"penstock_limit_peek", []string{costKey}, []any{"shop/cost", 1, "", "door"}},
		"many through doors":          {"penstock_limit_many", []string{whenKey, costKey, logKey}, []any{"shop/when", 1, "", "door", "shop/cost", 2, "", "door", "shop/log", 1, ""}},
		"a refund":                    {"penstock_limit_refund", []string{logKey, logKey + ":default"}, []any{"shop/log", 1, ""}},
		"a refund of the policy's":    {"penstock_limit_refund", []string{apiKey}, []any{"shop/api", "", "", "bob", "/v1/carts"}},
		"a refund needs no door":      {"penstock_limit_refund", []string{costKey}, []any{"shop/cost", 1, ""}},
		"a credit":                    {"penstock_limit_credit", []string{balanceKey}, []any{"shop/balance", 1, ""}},
		"a reset":                     {"penstock_limit_reset", []string{logKey, logKey + ":default"}, []any{"shop/log", "", ""}},
		"a reset needs no door":       {"penstock_limit_reset", []string{costKey}, []any{"shop/cost", "", ""}},
		"a reset of slots":            {"penstock_limit_reset", []string{slotsKey}, []any{"shop/slots", "", "", "bob"}},
		"many, with logs and without": {"penstock_limit_many", []string{logKey, logKey + ":default", apiKey, logKey}, []any{"shop/log", 1, "", "shop/api", 1, "", "bob", "/v1/", "shop/log", 1, ""}},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, false, refusing()...)
				reply, err := w.raw(test.function, test.keys, test.args...)
				if err != nil {
					t.Fatal(err)
				}
				rows := []any{reply}
				if test.function == "penstock_limit_many" {
					rows = reply.([]any)
				}
				for i, row := range rows {
					fields := row.([]any)
					if len(fields) != 10 || fields[0] != int64(1) || fields[5] != "default" || fields[6] != "ok" || fields[7] != "" || fields[8] != int64(0) {
						t.Errorf("row %d: %v", i, fields)
					}
				}
			})
		})
	}
}

func TestValuesMatchTheDeclaredPattern(t *testing.T) {
	tests := map[string]struct {
		declared string
		fit      []string
		unfit    []string
	}{
		"exact":           {"a.b", []string{"a.b"}, []string{"", "a.", "aXb", "a.bc", "xa.b"}},
		"prefix":          {"/v1/*", []string{"/v1/", "/v1/x/*"}, []string{"/v1", "v1/", "x/v1/"}},
		"suffix":          {"*.png", []string{".png", "a.png", ".png.png"}, []string{"png", ".pngx"}},
		"in the middle":   {"a*z", []string{"az", "abz", "azz", "aaz"}, []string{"a", "z", "azb", "baz"}},
		"several":         {"a*b*c", []string{"abc", "axbxc", "abbc", "abcc", "abcbc"}, []string{"ac", "acb", "bc", "abcb"}},
		"overlap":         {"aba*aba", []string{"abaaba", "abaxaba"}, []string{"aba", "ababa"}},
		"all":             {"*", []string{"", "x", "*"}, nil},
		"stars in a row":  {"a**b", []string{"ab", "axb"}, []string{"a", "b"}},
		"a Lua pattern":   {"%d+[a-z]*(.", []string{"%d+[a-z](.", "%d+[a-z]x(."}, []string{"1a(.", "%d+[a-z]("}},
		"bytes":           {"\u00e9*", []string{"\u00e9", "\u00e9\x00"}, []string{"e", "e\u0301"}},
		"a hard one":      {"a*a*a*a*a*a*a*b", []string{strings.Repeat("a", 255) + "b"}, []string{strings.Repeat("a", 256)}},
		"nearly too long": {"*" + strings.Repeat("x", 255), []string{strings.Repeat("x", 256)}, []string{strings.Repeat("x", 254)}},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				p := one("shop/api", fixedWindow(1000, time.Minute))
				p.Descriptors = []policy.Descriptor{{Key: "k", Value: test.declared}}
				w := startOn(t, server, mode, false, p)
				for _, value := range test.fit {
					if _, err := w.raw("penstock_limit", []string{apiKey}, "shop/api", 1, "", value); err != nil {
						t.Errorf("%q: %v", value, err)
					}
				}
				for _, value := range test.unfit {
					if _, err := w.raw("penstock_limit", []string{apiKey}, "shop/api", 1, "", value); err == nil || !strings.HasPrefix(err.Error(), "PENSTOCK_BADARG value 1 (k)") {
						t.Errorf("%q: %v, want PENSTOCK_BADARG", value, err)
					}
				}
			})
		})
	}
}

func TestTwoVersionsOfAPolicyInOneCallAreRefused(t *testing.T) {
	w := start(t, library.ModeScripts, false, one("shop/api", fixedWindow(10, time.Minute)))
	older := w.charge("shop/api", 1)
	w.publish(one("shop/api", fixedWindow(20, time.Minute)))
	_, err := w.limiter.Decide(context.Background(), []limit.Charge{older, w.charge("shop/api", 1)})
	if err == nil || !strings.Contains(err.Error(), "PENSTOCK_BADARG charge 2: policy") {
		t.Errorf("got %v", err)
	}
}

func TestDeletedPolicyIsErrNoPolicy(t *testing.T) {
	w := start(t, library.ModeFunctions, false, one("shop/api", fixedWindow(10, time.Minute)), one("shop/other", fixedWindow(10, time.Minute)))
	charges := []limit.Charge{w.charge("shop/other", 1), w.charge("shop/api", 1)}
	delete(w.policies, "shop/api")
	w.publish()
	_, err := w.limiter.Decide(context.Background(), charges)
	if !errors.Is(err, limit.ErrNoPolicy) || !strings.Contains(err.Error(), "shop/api") || redisops.Classify(err) != redisops.Policy {
		t.Errorf("got %v of class %v", err, redisops.Classify(err))
	}
	if rows, err := w.limiter.Decide(context.Background(), charges[:1]); err != nil || rows[0].Remaining != 9 {
		t.Errorf("the policy that is still there: %+v, %v, want 9 left", rows, err)
	}
}

func TestPolicyFunctionGivesTheDocument(t *testing.T) {
	p := one("shop/api", fixedWindow(maxInteger, time.Minute))
	p.Descriptors = []policy.Descriptor{{Key: "weird ]==]", Value: "]]]=]\n\"\\<é>"}}
	w := start(t, library.ModeFunctions, false, p)
	want, err := library.PolicyDocument(w.policies["shop/api"])
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args    []any
		want    string
		wantErr string
	}{
		"by name":          {args: []any{"shop/api"}, want: want},
		"by name and kind": {args: []any{"shop/api", "RateLimit"}, want: want},
		"unknown":          {args: []any{"shop/none"}, wantErr: "PENSTOCK_NOPOLICY shop/none"},
		"another kind":     {args: []any{"shop/api", "LockPolicy"}, wantErr: `PENSTOCK_BADARG kind is "LockPolicy": want RateLimit`},
		"no name":          {wantErr: "PENSTOCK_BADARG policy"},
		"too much":         {args: []any{"shop/api", "RateLimit", "x"}, wantErr: "PENSTOCK_BADARG policy"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := w.client.Do(context.Background(), append([]any{"FCALL_RO", "penstock_policy", 0}, test.args...)...).Result()
			var reply redis.Error
			if test.wantErr != "" {
				if !errors.As(err, &reply) || !strings.HasPrefix(err.Error(), test.wantErr) {
					t.Errorf("got %v, %v, want %s", got, err, test.wantErr)
				}
			} else if err != nil || got != test.want {
				t.Errorf("got %v, %v, want %s", got, err, test.want)
			}
		})
	}
}
