%%% mod_impfed for ejabberd: says who exists, and writes rosters of local users, when a component of
%%% impfed asks.  It answers what the Prosody module of the same name answers; the foreign domains
%%% stay components of their own, as ejabberd has them.
%%%
%%% Why it is there: mod_privilege (XEP-0356) cannot approve a contact.  A roster set leaves the
%%% subscription as it was (RFC 6121 section 2.1.5), and before ejabberd 23.10 it fails altogether.
%%%
%%% modules:
%%%   mod_impfed:
%%%     access: impfed      # access rule: the components that may ask; nobody by default
%%%
%%% Compile it with the headers of your ejabberd (README.md beside this file).
%%% MIT license, like the rest of impfed.  Written for ejabberd 23.01.

-module(mod_impfed).
-behaviour(gen_mod).

-export([start/2, stop/1, reload/3, depends/2, mod_options/1, mod_opt_type/1, mod_doc/0]).
-export([process_iq/1, decode_iq_subel/1]).

-include("logger.hrl").
-include("xmpp.hrl").

-define(NS_DIRECTORY, <<"urn:xmpp:impfed:directory:0">>).
-define(NS_ROSTERS, <<"urn:xmpp:impfed:roster:0">>).

start(Host, _Opts) ->
    lists:foreach(
      fun(NS) ->
              gen_iq_handler:add_iq_handler(ejabberd_local, Host, NS, ?MODULE, process_iq)
      end, [?NS_DIRECTORY, ?NS_ROSTERS]).

stop(Host) ->
    lists:foreach(
      fun(NS) -> gen_iq_handler:remove_iq_handler(ejabberd_local, Host, NS) end,
      [?NS_DIRECTORY, ?NS_ROSTERS]).

reload(_Host, _NewOpts, _OldOpts) -> ok.

depends(_Host, _Opts) -> [{mod_roster, hard}].

mod_options(_Host) -> [{access, none}].

mod_opt_type(access) -> econf:acl().

mod_doc() -> #{desc => <<"Answers impfed's questions about users, and writes rosters for it.">>}.

%% Our elements are unknown to ejabberd: they come as they are.
decode_iq_subel(Element) -> Element.

process_iq(#iq{from = From, to = #jid{lserver = Host}, sub_els = [Query]} = IQ) ->
    %% A route of our own that is no host: a component.  The name alone could come in by S2S.
    Component = From#jid.luser == <<>>
        andalso ejabberd_router:is_my_route(From#jid.lserver)
        andalso not ejabberd_router:is_my_host(From#jid.lserver),
    Access = gen_mod:get_module_opt(Host, ?MODULE, access),
    case Component andalso acl:match_rule(Host, Access, From) of
        allow ->
            Answers = answer(IQ#iq.type, fxml:get_tag_attr_s(<<"xmlns">>, Query), Query, IQ),
            case Answers of
                unknown -> xmpp:make_error(IQ, xmpp:err_service_unavailable());
                _ -> xmpp:make_iq_result(IQ, Query#xmlel{children = Answers})
            end;
        _ ->
            xmpp:make_error(IQ, xmpp:err_forbidden())
    end.

answer(get, ?NS_DIRECTORY, Query, _IQ) ->
    Users = fxml:get_subtags(Query, <<"user">>),
    Greeting = case Users of
                   [] -> [tag(<<"can">>, [{<<"name">>, ?NS_ROSTERS}])
                          | [tag(<<"host">>, [{<<"name">>, Host}]) || Host <- hosts()]]
                          ++ [tag(<<"host">>, [{<<"name">>, Route}, {<<"kind">>, <<"service">>}])
                              || Route <- ejabberd_router:get_all_routes() -- hosts()];
                   _ -> []
               end,
    Greeting ++ [tag(<<"user">>, [{<<"jid">>, attribute(<<"jid">>, User)},
                                      {<<"state">>, state(attribute(<<"jid">>, User))}])
                 || User <- Users];
answer(set, ?NS_ROSTERS, Query, #iq{from = From}) ->
    [write_roster(Deed, From) || #xmlel{} = Deed <- Query#xmlel.children];
answer(_, _, _, _) ->
    unknown.

%% The hosts that this module may speak of: those it runs on.
hosts() -> [Host || Host <- ejabberd_option:hosts(), gen_mod:is_loaded(Host, ?MODULE)].

state(Address) ->
    case local_user(Address) of
        {User, Host} ->
            case ejabberd_auth:user_exists(User, Host) of
                true -> <<"exists">>;
                false -> <<"absent">>;
                _ -> <<"unknown">>
            end;
        none -> <<"unknown">>
    end.

local_user(Address) ->
    try jid:decode(Address) of
        #jid{luser = User, lserver = Host, lresource = <<>>} when User /= <<>> ->
            case lists:member(Host, hosts()) of
                true -> {User, Host};
                false -> none
            end;
        _ -> none
    catch
        _:{bad_jid, _} -> none
    end.

write_roster(#xmlel{name = Name} = Deed, From) ->
    User = attribute(<<"user">>, Deed),
    Contact = attribute(<<"contact">>, Deed),
    Words = try write_roster(Name, state(User), jid:decode(User), jid:decode(Contact), Deed, From)
            catch
                Class:Reason ->
                    ?ERROR_MSG("cannot ~ts ~ts for ~ts: ~p:~p", [Name, Contact, User, Class, Reason]),
                    <<"a fault in the home server, see its log">>
            end,
    ?INFO_MSG("~ts ~ts for ~ts: ~ts", [Name, Contact, User, Words]),
    State = case Words of <<>> -> <<"done">>; _ -> <<"refused">> end,
    #xmlel{name = Name,
           attrs = [{<<"user">>, User}, {<<"contact">>, Contact}, {<<"state">>, State}],
           children = [{xmlcdata, Words}]}.

%% A component writes contacts of its own domain only.
write_roster(Name, <<"exists">>, User, #jid{lserver = Domain, luser = Node, lresource = <<>>} = Contact,
             Deed, #jid{lserver = Domain}) when Node /= <<>> ->
    deed(Name, User, Contact, attribute(<<"name">>, Deed));
write_roster(_, <<"exists">>, _, _, _, _) -> <<"not a user of the component's own domain">>;
write_roster(_, _, _, _, _, _) -> <<"no such local user">>.

%% What is done to a roster -> words if it failed.

%% The contact may see the user's presence; nobody is asked, and nothing need have been requested.
deed(<<"approve">>, User, Contact, _) ->
    case subscription(User, Contact) of
        {Sub, _} when Sub == from; Sub == both -> <<>>;
        {_, Ask} ->
            if Ask == in; Ask == both -> ok;
               true -> mod_roster:in_subscription(false, presence(subscribe, Contact, User))
            end,
            as_user(subscribed, User, Contact),
            case subscription(User, Contact) of
                {Sub, _} when Sub == from; Sub == both -> <<>>;
                _ -> <<"the approval was not taken">>
            end
    end;
%% The contact may not see the user's presence any more, or his request is declined.
deed(<<"cancel">>, User, Contact, _) ->
    as_user(unsubscribed, User, Contact),
    <<>>;
%% The contact is on the roster under this name, and the user asks to see his presence.
deed(<<"add">>, User, Contact, Name) ->
    case set_item(User, #roster_item{jid = Contact, name = Name}) of
        <<>> ->
            case subscription(User, Contact) of
                {Sub, _} when Sub == to; Sub == both -> ok;
                _ -> as_user(subscribe, User, Contact)
            end,
            <<>>;
        Words -> Words
    end;
%% The contact is off the roster; neither sees the other's presence.
deed(<<"remove">>, User, Contact, _) ->
    set_item(User, #roster_item{jid = Contact, subscription = remove});
deed(_, _, _, _) ->
    <<"unknown request">>.

%% What ejabberd_c2s does with subscription stanzas of the user's own client.
as_user(Type, User, Contact) ->
    Presence = presence(Type, User, Contact),
    ejabberd_hooks:run(roster_out_subscription, User#jid.lserver, [Presence]),
    ejabberd_router:route(Presence).

presence(Type, From, To) -> #presence{type = Type, from = From, to = To}.

set_item(User, Item) ->
    case mod_roster:set_item_and_notify_clients(User, Item, false) of
        ok -> <<>>;
        {error, _} -> <<"the roster could not be saved">>
    end.

subscription(#jid{luser = User, lserver = Host}, Contact) ->
    {Subscription, Ask, _} = mod_roster:get_jid_info({none, none, []}, User, Host, Contact),
    {Subscription, Ask}.

attribute(Name, Element) -> fxml:get_tag_attr_s(Name, Element).

tag(Name, Attributes) -> #xmlel{name = Name, attrs = Attributes}.
