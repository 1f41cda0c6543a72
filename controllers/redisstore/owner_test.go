package redisstore

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func TestOnlyAStoreOfThisClusterThatIsThereToStayLives(t *testing.T) {
	stores := map[types.NamespacedName]bool{
		{Namespace: "shop", Name: "default"}: true,
		{Namespace: "shop", Name: "ending"}:  false,
	}
	for owner, want := range map[string]bool{
		"id/shop/default":      true,
		"id/shop/ending":       false,
		"id/shop/gone":         false,
		"other/shop/default":   false,
		"id/shop/default/more": false,
		"id/":                  false,
		"id":                   false,
		"":                     false,
	} {
		if got := lives("id", owner, stores); got != want {
			t.Errorf("%q lives: %v, want %v", owner, got, want)
		}
	}
}
