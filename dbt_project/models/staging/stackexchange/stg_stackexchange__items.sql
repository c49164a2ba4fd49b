{% set columns = ['Id', 'Title', 'Body', 'Tags', 'OwnerUserId', 'CreationDate'] %}
with named as (
    {{ landed_fields('items', 'stackexchange', columns, names=['id', 'title', 'body', 'tags', 'owner_user_id', 'creation_date']) }}
)

select
    arrival_hour,
    source,
    file,
    row_number,
    cast(0 as bigint) as preference,
    id as item_id,
    'question' as kind,
    {{ tidied('title') }} as title,
    {{ tidied('body') }} as description,
    -- <one><two> in older dumps, |one|two| in newer ones.
    coalesce(regexp_extract_all(tags, '[^<>|]+'), []) as categories,
    owner_user_id as creator_id,
    cast(null as double) as price,
    {{ utc_time('creation_date') }} as published_at,
    cast(null as timestamp) as available_from,
    cast(null as timestamp) as available_until,
    cast(null as varchar) as attributes,
    raw,
    case
        when read_error is not null then read_error
        when creation_date is not null and {{ utc_time('creation_date') }} is null then 'unusable_time'
    end as reason
from named
