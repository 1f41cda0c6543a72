-- penstock.lua: lets HAProxy (2.5 or newer, built with Lua) ask penstockd before it forwards a request.
--
--   global
--       lua-load-per-thread /etc/haproxy/penstock.lua
--   frontend web
--       http-request lua.penstock /auth/shop/api-per-ip allow
--   listen penstock
--       bind abns@penstock
--       ...
--
-- The first argument is the path to ask at penstockd. The second says what happens when penstockd does not answer, or
-- answers with an error of its own: "allow" forwards the request, "deny" answers 503. See haproxy.md for the rest.
--
-- A request that penstockd denies is answered as penstockd says, with its status, headers and body. Of one that it allows,
-- the headers are in the variables txn.penstock_ratelimit, txn.penstock_ratelimit_policy and txn.penstock_degraded.

-- Where HAProxy itself listens for the questions, and passes them on to penstockd.
local PENSTOCK = "abns@penstock"

-- How long that may take, in milliseconds: longer than the timeouts there, since HAProxy asks again when this is over.
local TIMEOUT = 200

-- Not passed on to penstockd: what belongs to the client's connection or body, and what this script says itself.
local OWN = {
  ["connection"] = true, ["keep-alive"] = true, ["proxy-connection"] = true, ["te"] = true, ["trailer"] = true,
  ["transfer-encoding"] = true, ["upgrade"] = true, ["expect"] = true, ["content-length"] = true,
  ["content-encoding"] = true, ["host"] = true, ["forwarded"] = true, ["x-forwarded-for"] = true,
  ["x-forwarded-method"] = true, ["x-forwarded-host"] = true, ["x-forwarded-uri"] = true, ["x-penstock-domain"] = true,
  ["x-penstock-authorization"] = true,
}

-- Not passed back from penstockd to the client: HAProxy says these itself.
local HOP = {
  ["connection"] = true, ["keep-alive"] = true, ["transfer-encoding"] = true, ["content-length"] = true, ["date"] = true,
}

-- list gives the values of a header, which HAProxy counts from 0, counted from 1.
local function list(values)
  local out = {}
  for i = 0, #values do
    out[#out + 1] = values[i]
  end
  return out
end

-- question gives the headers to ask with. The address is that of the connection, or what `http-request set-src` made of it.
local function question(txn)
  local headers = {}
  for name, values in pairs(txn.http:req_get_headers()) do
    if not OWN[name] then
      headers[name] = list(values)
    end
  end
  headers["x-forwarded-for"] = { tostring(txn.f:src()) }
  headers["x-forwarded-method"] = { txn.f:method() }
  headers["x-forwarded-uri"] = { txn.f:pathq() }
  local host = txn.sf:req_hdr("host")
  if host ~= "" then
    headers["x-forwarded-host"] = { host }
  end
  return headers
end

-- answer ends the request in HAProxy.
local function answer(txn, status, headers, body)
  local reply = txn:reply({ status = status, body = body })
  for _, header in ipairs(headers) do
    reply:add_header(header[1], header[2])
  end
  txn:done(reply)
end

-- failed is what happens when nobody knows whether the request may pass.
local function failed(txn, mode, why)
  core.log(core.warning, "penstock: " .. why)
  txn:set_var("txn.penstock_degraded", "proxy")
  if mode ~= "allow" then
    answer(txn, 503, { { "retry-after", "1" }, { "x-penstock-degraded", "proxy" } }, "")
  end
end

-- keep puts a header of an allowed request where the configuration finds it.
local function keep(txn, variable, values)
  if values ~= nil then
    txn:set_var(variable, values[0])
  end
end

-- ask is the action.
local function ask(txn, path, mode)
  local response = core.httpclient():get({
    url = "http://penstockd" .. path, headers = question(txn), timeout = TIMEOUT, dst = PENSTOCK,
  })
  local status = response.status or 0
  local headers = response.headers or {}
  -- A policy may deny with a status of 500 and above. Its answer names it, an error does not.
  local verdict = headers["content-type"] ~= nil and headers["content-type"][0] == "application/problem+json"
    and string.find(response.body or "", '"policy":', 1, true) ~= nil
  if status >= 200 and status < 300 then
    keep(txn, "txn.penstock_ratelimit", headers["ratelimit"])
    keep(txn, "txn.penstock_ratelimit_policy", headers["ratelimit-policy"])
    keep(txn, "txn.penstock_degraded", headers["x-penstock-degraded"])
  elseif (status >= 400 and status < 500) or verdict then
    local kept = {}
    for name, values in pairs(headers) do
      if not HOP[name] then
        for _, value in ipairs(list(values)) do
          kept[#kept + 1] = { name, value }
        end
      end
    end
    answer(txn, status, kept, response.body or "")
  elseif status == 0 then
    failed(txn, mode, "penstockd does not answer")
  else
    failed(txn, mode, "penstockd answers " .. status)
  end
end

core.register_action("penstock", { "http-req" }, ask, 2)
