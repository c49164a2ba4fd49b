{% set scalars = [
    'event_id', 'user_id', 'item_id', 'event_type', 'event_ts', 'value', 'text', 'session_id', 'deleted'
] %}
with landed as (
    select
        arrival_hour,
        source,
        file,
        row_number,
        raw,
        read_error,
        case when read_error is null then cast(raw as json) end as came,
        {{ given_attributes('came') }} as given
    from {{ source('landed', 'events') }}
    where source not in ('{{ var("sources_of_their_own") | join("', '") }}')
),

extracted as (
    select
        *,
        json_extract_string(came, ['$.{{ scalars | join("', '$.") }}']) as texts,
        json_type(came, ['$.{{ scalars | join("', '$.") }}']) as types,
        {{ attributes('came', 'given', scalars) }} as attributes
    from landed
),

named as (
    select
        arrival_hour,
        source,
        file,
        row_number,
        raw,
        read_error,
        {{ plain_attributes('attributes') }} as attributes,
        coalesce(list_has_any(types, ['OBJECT', 'ARRAY']), false) as has_wrong_type,
        {{ columns_of('texts', scalars, '_came') }}
    from extracted
),

typed as (
    select
        *,
        {{ tidied('text_came') }} as tidy,
        lower(event_type_came) as event_type,
        {{ utc_time('event_ts_came') }} as event_ts,
        {{ number('value_came') }} as number,
        case
            when deleted_came is null then false
            when lower(deleted_came) in ('true', 't', 'yes', 'y', '1', '1.0') then true
            when lower(deleted_came) in ('false', 'f', 'no', 'n', '0', '0.0') then false
        end as deleted
    from named
)

select
    arrival_hour,
    source,
    file,
    row_number,
    -- Without an event_id the other fields are the identity, whether the event is withdrawn or not.
    coalesce(event_id_came, 'h:' || md5(cast(json_array(
        user_id_came, item_id_came, event_type, event_ts, number, text_came, session_id_came, attributes
    ) as varchar))) as event_key,
    user_id_came as user_id,
    item_id_came as item_id,
    event_type,
    event_ts,
    number as value,
    tidy as text,
    session_id_came as session_id,
    attributes,
    coalesce(deleted, false) as deleted,
    -- A withdrawal that names its event needs nothing else.
    coalesce(deleted, false) and event_id_came is not null as is_bare_withdrawal,
    raw,
    case
        when read_error is not null then read_error
        when has_wrong_type then 'wrong_type'
        when {{ is_oversized(['event_id_came', 'user_id_came', 'item_id_came', 'session_id_came']) }} then 'oversized_id'
        when deleted is null then 'invalid_deleted'
        when deleted and event_id_came is not null then null
        when value_came is not null and number is null then 'invalid_value'
    end as reason
from typed
