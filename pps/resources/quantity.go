package resources

import (
	"fmt"
	"math/big"
	"regexp"
	"strconv"
)

// quantityForm is a decimal number with a suffix or an exponent, as Kubernetes
// writes amounts: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
var quantityForm = regexp.MustCompile(`^([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]{1,3}))?$`)

// scale gives a suffix as base and exponent.
func scale(suffix string) (base, exponent int64) {
	switch suffix {
	case "n":
		return 10, -9
	case "u":
		return 10, -6
	case "m":
		return 10, -3
	case "":
		return 10, 0
	case "k", "M", "G", "T", "P", "E":
		return 10, 3 * int64(1+indexOf("kMGTPE", suffix[0]))
	default:
		return 2, 10 * int64(1+indexOf("KMGTPE", suffix[0]))
	}
}

func indexOf(s string, c byte) int {
	for i := range len(s) {
		if s[i] == c {
			return i
		}
	}
	return -1
}

// ParseQuantity reads an amount such as "64M", "1Gi", "1.5G", "500m" or "1e9" and
// rounds it up to a whole number. It is not negative and fits an int64.
func ParseQuantity(text string) (int64, error) {
	m := quantityForm.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%q is no quantity: write a number with a suffix such as 64Mi, 1Gi or 500M", text)
	}
	sign, digits, suffix, exp := m[1], m[2], m[3], m[4]
	n, ok := new(big.Rat).SetString(digits)
	if !ok || len(digits) > 64 {
		return 0, fmt.Errorf("%q is no quantity: its number cannot be read", text)
	}
	base, exponent := scale(suffix)
	if exp != "" {
		base = 10
		exponent, _ = strconv.ParseInt(exp, 10, 64) // three digits at most
	}
	factor := new(big.Int).Exp(big.NewInt(base), big.NewInt(max(exponent, -exponent)), nil)
	if exponent < 0 {
		n.Quo(n, new(big.Rat).SetInt(factor))
	} else {
		n.Mul(n, new(big.Rat).SetInt(factor))
	}
	if sign == "-" && n.Sign() != 0 {
		return 0, fmt.Errorf("%q is negative", text)
	}
	whole, rest := new(big.Int).QuoRem(n.Num(), n.Denom(), new(big.Int))
	if rest.Sign() != 0 {
		whole.Add(whole, big.NewInt(1))
	}
	if !whole.IsInt64() {
		return 0, fmt.Errorf("%q is too large", text)
	}
	return whole.Int64(), nil
}
