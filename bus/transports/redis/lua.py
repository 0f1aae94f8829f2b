"""Parts that the Lua scripts are put together from."""

from __future__ import annotations

from typing import Final

from bus.transports.redis.keys import FREE as _FREE_NAME

TIME: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

FREE: Final = f"local free = '{_FREE_NAME}'\n"

# How many groups read a stream; a stream that does not exist has none.
GROUPS: Final = """
local counted = {}
local function groups(stream)
  if not counted[stream] then
    local found = redis.pcall('XINFO', 'GROUPS', stream)
    counted[stream] = found.err and 0 or #found
  end
  return counted[stream]
end
"""

# The last entry that a group was given, or false where there is no such group.
LAST: Final = """
local function last_delivered(stream, group)
  local found = redis.pcall('XINFO', 'GROUPS', stream)
  if found.err then return false end
  for _, each in ipairs(found) do
    local fields = {}
    for at = 1, #each, 2 do fields[each[at]] = each[at + 1] end
    if fields['name'] == group then return fields['last-delivered-id'], fields['lag'], fields['pending'] end
  end
  return false
end
"""

VALUE: Final = """
local function value_of(fields)
  for at = 1, #fields, 2 do
    if fields[at] == 'message' then return fields[at + 1] end
  end
  return ''
end
"""

# Who holds an entry, or false; and how often it was delivered.
HOLDER: Final = """
local function holder(stream, group, id)
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if found.err or not found[1] then return false, 0 end
  return found[1][2], found[1][4]
end
"""

# Whether an id of a stream comes behind another one.
BEHIND: Final = """
local function behind(id, other)
  local a, b = string.match(id, '(%d+)-(%d+)')
  local c, d = string.match(other, '(%d+)-(%d+)')
  if tonumber(a) ~= tonumber(c) then return tonumber(a) > tonumber(c) end
  return tonumber(b) > tonumber(d)
end
"""

# Puts back what was taken by its id. A record is {owner, state, key, score, value}.
PUT_BACK: Final = """
local function put_back(field)
  local record = cmsgpack.unpack(redis.call('HGET', taken, field))
  redis.call('HDEL', taken, field)
  local _, state, key, score, value = unpack(record)
  if state == 'delayed' then
    redis.call('ZADD', key, score, value)
  else
    redis.call('XADD', key, '*', 'message', value)
  end
end
"""

WAKE: Final = """
local function wake(key, due)
  redis.call('XADD', key, 'MAXLEN', 1, '*', 'due', due)
end
"""

# Moves what is due into its stream, and notes when the next is. No memory for it: it stays where it is.
MOVE_DUE: Final = """
local due = false
local function move_due(stream, queue)
  for _, value in ipairs(redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'LIMIT', 0, 100)) do
    local added = redis.pcall('XADD', stream, '*', 'message', value)
    if type(added) == 'table' and added.err then break end
    redis.call('ZREM', queue, value)
  end
  local head = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  if head[2] and (not due or tonumber(head[2]) < due) then due = tonumber(head[2]) end
end
"""
